"""The verdict: what a variant cost and gave here, in a few sentences drawn from the figures by these rules.

Cost, from the mean KL divergence of the corpus with the most tokens, in nats:

    below 0.01   hardly anything
    below 0.05   little
    below 0.2    noticeably
    above        heavily

The whole 95 % interval decides: where its ends are in different classes, both
are named; where they are more than two classes apart, its high end is more
than FEW_RATIO times its low end, it is missing, or there are fewer than
FEW_TOKENS tokens, the verdict is that there are too few tokens to tell.
Perplexity counts as changed only if the interval of the ratio excludes 1.
Where a loss of the third class or the fourth is that of rounding to nearest, it says what another algorithm lost where that was
measured. Speed is told from FEW_ANSWERS answers of each variant on. Without
measurement, the verdict says that answers alone cannot tell.
"""

from dataclasses import dataclass
from statistics import median

from itrex_chat.comparison import ONLINE, Figures, ModelComparison
from itrex_chat.engines import engine_of
from itrex_chat.foundation.language import _, spoken_language
from itrex_chat.foundation.units import lasting, readable
from itrex_chat.quality.intervals import Estimate
from itrex_chat.quality.measuring import Corpus
from itrex_chat.report.drafting import agreement_sentence
from itrex_chat.report.quality_tables import corpus_title, signed, small
from itrex_chat.settings.variant import titled

LIMITS = (0.01, 0.05, 0.2)  # nats
FEW_TOKENS, FEW_RATIO, FEW_ANSWERS = 400, 4.0, 3
UNKNOWN, UNMEASURED = "unknown", "unmeasured"
LEVELS = ("none", "little", "noticeable", "heavy")
NOTABLE = ("noticeable", "heavy")
# What GPTQ lost beside rounding to nearest, from so many tokens, and the seconds that it took: the table in docs/quality.md.
GPTQ_SHARE, GPTQ_TOKENS, GPTQ_SECONDS, GPTQ_MODEL = 0.24, 8192, 463, "SmolLM2-135M"


@dataclass(frozen=True)
class Verdict:
    """`level` is one of LEVELS, of the interval's high end, UNKNOWN or UNMEASURED."""

    variant: str
    level: str
    sentences: list[str]

    @property
    def text(self) -> str:
        """The sentences as a paragraph."""
        return ("" if spoken_language() == "zh" else " ").join(self.sentences)


def verdicts(model: ModelComparison) -> list[Verdict]:
    """One for each variant that was compared with the baseline."""
    return [
        _verdict(model, figures)
        for figures in model.figures
        if figures.variant not in (model.baseline, ONLINE) and figures.answers
    ]


def main_corpus(model: ModelComparison, variant: str) -> Corpus | None:
    """What the verdict is drawn from: the corpus with the most tokens."""
    measured = model.quality.variants.get(variant) if model.quality else None
    return max(measured.corpora, key=lambda corpus: corpus.positions) if measured and measured.corpora else None


def level(corpus: Corpus) -> tuple[str, str]:
    """The classes of the interval's two ends, or UNKNOWN twice."""
    mean = corpus.figures["kld_mean"]
    ends = _ends(mean)
    if mean.value == 0 and ends == (0.0, 0.0):
        return LEVELS[0], LEVELS[0]
    if ends is None or corpus.positions < FEW_TOKENS or ends[1] > FEW_RATIO * ends[0]:
        return UNKNOWN, UNKNOWN
    low, high = (sum(end >= limit for limit in LIMITS) for end in ends)
    return (LEVELS[low], LEVELS[high]) if high - low < 2 else (UNKNOWN, UNKNOWN)


def _ends(found: Estimate) -> tuple[float, float] | None:
    """Both ends of the interval, where both are known."""
    return None if found.low is None or found.high is None else (found.low, found.high)


def _verdict(model: ModelComparison, figures: Figures) -> Verdict:
    corpus = main_corpus(model, figures.variant)
    names = {"variant": titled(figures.variant), "base": titled(model.baseline)}
    if not engine_of(figures.variant).gives_logits:
        found, cost = (
            UNMEASURED,
            _("{variant} is computed by another engine, whose predictions are not measured.", **names),
        )
    elif corpus is None:
        found, cost = (
            UNMEASURED,
            _(
                "What {variant} costs was not measured: answers that differ do not tell whether they are worse "
                "(python -m itrex_chat.measure tells).",
                **names,
            ),
        )
    else:
        lowest, found = level(corpus)
        cost = _cost(corpus, lowest, found, model, names)
    agreed = agreement_sentence(model, figures.variant)
    return Verdict(
        figures.variant,
        found,
        [cost, *_hint(model, figures, found), *agreed, *_gain(model, figures, names), *_answers(model, figures, names)],
    )


def _cost(corpus: Corpus, lowest: str, highest: str, model: ModelComparison, names: dict[str, str]) -> str:
    mean, top, ratio = (corpus.figures[name] for name in ("kld_mean", "same_top", "ppl_ratio"))
    ends, ratio_ends = _ends(mean), _ends(ratio)
    facts: dict[str, object] = {
        **names,
        "kld": small(mean.value),
        "positions": corpus.positions,
        "corpus": corpus_title(corpus.name, model.baseline),
    }
    if highest == UNKNOWN or ends is None or ratio_ends is None:
        return _(
            "{positions} tokens ({corpus}) are too few to tell what {variant} costs (mean KL divergence from {base} "
            "{kld}); measure on a longer text with --text.",
            **facts,
        )
    if mean.value == 0:
        return _("{variant} predicts exactly what {base} predicts on {positions} tokens ({corpus}).", **facts)
    facts |= {
        "low": small(ends[0]),
        "high": small(ends[1]),
        "top": f"{100 * top.value:.1f} %",
        "perplexity": _perplexity(ratio.value, *ratio_ends),
    }
    how = (
        level_text(highest)
        if lowest == highest
        else _("{less} to {more}", less=level_text(lowest), more=level_text(highest))
    )
    return _(
        "{variant} changes the model's predictions {how}: the mean KL divergence from {base} is {kld} ({low} to "
        "{high}), the likeliest token is the same in {top} of {positions} places ({corpus}), and the perplexity "
        "{perplexity}.",
        how=how,
        **facts,
    )


def _hint(model: ModelComparison, figures: Figures, found: str) -> list[str]:
    """What to try against a notable loss, where the simplest algorithm was used."""
    if found not in NOTABLE or figures.algorithm != "rtn" or model.integers_were_taken:
        return []
    return [
        _(
            "Its integers were rounded to nearest: GPTQ (--set quantization.algorithm gptq) has the same bytes and speed, and lost "
            "{share:.2f} × as much on {measured} (docs/quality.md). Making that took {time} from {tokens} tokens on two busy cores; "
            "more tokens and larger models take longer in proportion.",
            share=GPTQ_SHARE,
            time=lasting(GPTQ_SECONDS),
            tokens=GPTQ_TOKENS,
            measured=GPTQ_MODEL,
        )
    ]


def level_text(name: str) -> str:
    """A class in words that fit into "changes the predictions …"."""
    return {"none": _("hardly at all"), "little": _("a little"), "noticeable": _("noticeably"), "heavy": _("heavily")}[
        name
    ]


def level_label(name: str) -> str:
    """A class in words that stand alone."""
    return {
        "none": _("costs hardly anything"),
        "little": _("costs a little"),
        "noticeable": _("costs noticeably"),
        "heavy": _("costs heavily"),
        UNKNOWN: _("too few tokens to tell"),
        UNMEASURED: _("was not measured"),
    }[name]


def _perplexity(ratio: float, lowest: float, highest: float) -> str:
    """How the perplexity changed, as the end of a sentence about it."""
    change, low, high = (signed(100 * (value - 1), 1) + " %" for value in (ratio, lowest, highest))
    if lowest <= 1 <= highest:
        return _("does not tell them apart ({change}, {low} to {high})", change=change, low=low, high=high)
    if ratio > 1:
        return _("is higher: {change} ({low} to {high})", change=change, low=low, high=high)
    return _(
        "is even lower: {change} ({low} to {high}), as rounding can do by chance", change=change, low=low, high=high
    )


def _gain(model: ModelComparison, figures: Figures, names: dict[str, str]) -> list[str]:
    base = model.figures[0]
    parts = []
    speed = model.ratio(figures, "tokens_per_second")
    if speed and min(figures.answers, base.answers) < FEW_ANSWERS:
        parts.append(_("too few answers to tell its speed"))
    elif speed:
        facts = {
            "ratio": f"{speed:.2f}",
            "rate": f"{figures.tokens_per_second:.1f}",
            "base_rate": f"{base.tokens_per_second:.1f}",
        }
        parts.append(_("{ratio} × the speed ({rate} instead of {base_rate} tokens per second)", **facts))
    for field, text in (
        ("peak_memory", lambda ratio, size: _("{ratio} × the memory ({size})", ratio=ratio, size=size)),
        ("disk_bytes", lambda ratio, size: _("{ratio} × the disk space ({size})", ratio=ratio, size=size)),
    ):
        if ratio := model.ratio(figures, field):
            parts.append(text(f"{ratio:.2f}", readable(getattr(figures, field))))
    told = [_("{variant} has {parts}.", variant=names["variant"], parts=_(", ").join(parts))] if parts else []
    if base.storage and base.wide_bytes and base.weight_bytes and figures.weight_bytes:
        told.append(
            _(
                "{base} is kept in 16 bits here ({storage}); {variant} reads {ratio} × as much for a token, and {wide} × of "
                "what {base} reads in 32 bits.",
                storage=base.storage,
                ratio=f"{figures.weight_bytes / base.weight_bytes:.2f}",
                wide=f"{figures.weight_bytes / base.wide_bytes:.2f}",
                **names,
            )
        )
    return told


def _answers(model: ModelComparison, figures: Figures, names: dict[str, str]) -> list[str]:
    parted = [
        pair.equal_tokens
        for pair in model.pairs.get(figures.variant, ())
        if pair.identical is False and pair.equal_tokens is not None
    ]
    if figures.identical is None:
        return []
    if not parted:
        return [_("All {count} answers are the same as {base}'s.", count=figures.identical, base=names["base"])]
    return [
        _(
            "{identical} of {count} answers are the same as {base}'s; the others part after {tokens:.0f} tokens (median), "
            "which alone does not make them worse.",
            identical=figures.identical,
            count=figures.identical + len(parted),
            tokens=median(parted),
            base=names["base"],
        )
    ]
