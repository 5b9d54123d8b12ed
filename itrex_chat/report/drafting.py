"""What drafts say, in words: the agreement of two variants, and the speed with drafts and without."""

from itrex_chat.comparison import AnswerPair, Figures, ModelComparison
from itrex_chat.comparison.drafted import Drafted
from itrex_chat.foundation.language import _
from itrex_chat.jobs.answer import Answer
from itrex_chat.report.quality_tables import estimate
from itrex_chat.settings.variant import drafter_title, titled


def agreement_cell(model: ModelComparison, variant: str) -> str:
    """How often the baseline would have chosen a variant's next token, for a table; "–" where that is not known."""
    found = model.agreement(variant)
    if found is None or found.share is None:
        return "–"
    share = estimate(found.share, lambda value: f"{100 * value:.1f} %")
    return _("{share} of {places}", share=share, places=found.places)


def agreement_sentence(model: ModelComparison, variant: str) -> list[str]:
    """The same in words, for the verdict; nothing where it is not known."""
    found = model.agreement(variant)
    return [_agreed(found, model.baseline)] if found else []


def agreement_of(pair: AnswerPair, variant: str) -> str:
    """That of one answer."""
    drafts = pair.baseline.drafts if pair.baseline else None
    if drafts is None or drafts.by != variant or not drafts.places:
        return ""
    return _(
        "{base} would have chosen {variant}'s next token at {agreed} of {places} places",
        base=titled(pair.baseline.variant) if pair.baseline else "",
        variant=titled(variant),
        agreed=drafts.agreed,
        places=drafts.places,
    )


def drafting_lines(model: ModelComparison) -> list[str]:
    """A sentence on the speed of each variant whose answers were drafted, and on the drafter where no column is its."""
    lines = []
    for figures in model.figures:
        if (found := figures.drafted) is None:
            continue
        lines.append(f"{titled(figures.variant)}: {_speed(figures, found)}")
        in_verdict = figures.variant == model.baseline and found.by in model.pairs
        if found.share and not in_verdict:
            lines.append(_agreed(found, figures.variant))
    return lines


def rate(answer: Answer) -> str:
    """An answer's tokens per second, without drafts and with them; of one made with others none."""
    if answer.batch:
        return "–"
    plain = f"{answer.plain_tokens_per_second:.1f}" if answer.plain_tokens_per_second else "–"
    if answer.drafts is None or not answer.drafted_tokens or not answer.tpot:
        return plain
    return _("{plain} ({drafted:.1f} with drafts)", plain=plain, drafted=1 / answer.tpot)


def _speed(figures: Figures, found: Drafted) -> str:
    plain, drafted = figures.tokens_per_second, found.tokens_per_second
    facts: dict[str, object] = {"drafter": drafter_title(found.by)}
    if not plain or not drafted:
        return _("{drafter} drafts; the answers are the same without it.", **facts)
    return _(
        "drafted by {drafter} {drafted:.1f} tokens per second instead of {plain:.1f} ({ratio:.2f} ×), and the same answers. "
        "All other rates and the memory are those without drafts.",
        drafted=drafted,
        plain=plain,
        ratio=drafted / plain,
        **facts,
    )


def _agreed(found: Drafted, variant: str) -> str:
    assert found.share is not None
    share, low, high = found.share.value, found.share.low, found.share.high
    between = "" if low is None or high is None else _(" ({low:.1f} to {high:.1f} %)", low=100 * low, high=100 * high)
    return _(
        "{base} would have chosen {drafter}'s next token at {share:.1f} %{between} of {places} places in its answers.",
        base=titled(variant),
        drafter=drafter_title(found.by),
        share=100 * share,
        between=between,
        places=found.places,
    )
