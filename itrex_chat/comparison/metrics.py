"""How alike two answers are."""
import functools


def equal_tokens(first: list[int], second: list[int]) -> int:
    """How many tokens two answers share from the start; the first divergent token has this index."""
    return next((i for i, (a, b) in enumerate(zip(first, second)) if a != b), min(len(first), len(second)))


def equal_characters(first: str, second: str) -> int:
    return next((i for i, (a, b) in enumerate(zip(first, second)) if a != b), min(len(first), len(second)))


def chrf(answer: str, reference: str) -> float:
    """chrF, the F-score of character n-grams, 0 to 100 (Popović 2015), by sacrebleu.

    It needs no words, so it serves Chinese as well as English.
    """
    if not answer.strip() or not reference.strip():
        return 100.0 if answer.strip() == reference.strip() else 0.0
    return _scorer().sentence_score(answer, [reference]).score


@functools.cache
def _scorer():
    from sacrebleu.metrics import CHRF
    return CHRF()
