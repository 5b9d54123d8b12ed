"""How alike two answers are, and what can be seen of one answer by itself."""

import functools
import re
import unicodedata
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sacrebleu.metrics import BLEU, CHRF

HAN = re.compile("[\u3400-\u9fff\U00020000-\U0003ffff]")
KANA = re.compile("[\u3040-\u30ff]")
HANGUL = re.compile("[\uac00-\ud7af]")
LATIN = re.compile("[A-Za-zÀ-ÿ]+")
CODE = re.compile("```.*?(```|$)", re.DOTALL)
REPEATED = 4  # tokens of a run that is looked for again


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


def bleu(answer: str, reference: str) -> float:
    """BLEU of one answer with exponential smoothing, 0 to 100 (Papineni 2002), by sacrebleu.

    Its Chinese tokenizer splits where the reference is Chinese or Japanese, 13a elsewhere.
    """
    if not answer.strip() or not reference.strip():
        return 100.0 if answer.strip() == reference.strip() else 0.0
    tokenizer = "zh" if language_of(reference) in ("zh", "ja") else "13a"
    return _bleu_scorer(tokenizer).sentence_score(answer, [reference]).score


def matches(answer: str, expected: str) -> bool:
    """Whether an answer is what was expected, apart from spaces, punctuation and the width and case of letters."""
    return bool(_bare(expected)) and _bare(answer) == _bare(expected)


def contains(answer: str, expected: str) -> bool:
    """Whether what was expected stands somewhere in the answer, compared as in `matches`."""
    return bool(_bare(expected)) and _bare(expected) in _bare(answer)


def repetition(token_ids: list[int]) -> float:
    """The share of an answer's runs of four tokens that occurred in it before, 0 to 1."""
    runs = [tuple(token_ids[i : i + REPEATED]) for i in range(len(token_ids) - REPEATED + 1)]
    return 1 - len(set(runs)) / len(runs) if runs else 0.0


def language_of(text: str) -> str:
    """ "zh", "ja", "ko", "en" (any language in Latin letters) or "" by the letters of a text.

    Chinese characters are counted against Latin words; code blocks do not count.
    """
    text = CODE.sub(" ", text)
    han, kana, hangul = (len(pattern.findall(text)) for pattern in (HAN, KANA, HANGUL))
    latin = len(LATIN.findall(text))
    if kana > 0.2 * (han + kana):
        return "ja"
    if hangul > han + kana and hangul > latin:
        return "ko"
    if han > latin:
        return "zh"
    return "en" if latin else ""


def _bare(text: str) -> str:
    """Letters, digits and what a formula needs, in one width and case."""
    text = unicodedata.normalize("NFKC", text).casefold()
    return "".join(c for c in text if unicodedata.category(c)[0] in "LNMS" or c in "/-%.").strip(".-")


@functools.cache
def _scorer() -> "CHRF":
    from sacrebleu.metrics import CHRF

    return CHRF()


@functools.cache
def _bleu_scorer(tokenizer: str) -> "BLEU":
    from sacrebleu.metrics import BLEU

    return BLEU(tokenize=tokenizer, effective_order=True)
