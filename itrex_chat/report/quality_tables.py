"""Teacher-forced figures as rows of text."""

from collections.abc import Callable

from itrex_chat.foundation.language import _
from itrex_chat.quality.intervals import Estimate
from itrex_chat.quality.measuring import Corpus
from itrex_chat.quality.passages import ANSWERS
from itrex_chat.quality.record import ModelQuality
from itrex_chat.ratings.criteria import criterion_title
from itrex_chat.ratings.judgements import Judged
from itrex_chat.ratings.summary import Rated
from itrex_chat.ratings.votes import Voted
from itrex_chat.settings.variant import titled

BRIEF = ("ppl_base", "ppl_ratio", "same_top", "kld_mean", "kld_median", "kld_99", "dp_rms")


def corpus_title(name: str, baseline: str) -> str:
    return _("the answers of {base}", base=titled(baseline)) if name == ANSWERS else name


def quality_tables(quality: ModelQuality | None, brief: bool = False) -> dict[str, list[list[str]]]:
    """`quality_rows` by what was measured on, the answers and the texts by name; none where nothing was."""
    if quality is None:
        return {}
    corpora = dict.fromkeys(corpus.name for variant in quality.variants.values() for corpus in variant.corpora)
    return {name: quality_rows(quality, name, brief) for name in corpora}


def quality_rows(quality: ModelQuality, corpus: str, brief: bool = False) -> list[list[str]]:
    """A heading and a row for each figure, a column for each variant measured on the corpus; `brief` is the main ones."""
    shown = {
        name: found
        for name, variant in quality.variants.items()
        if (found := next((c for c in variant.corpora if c.name == corpus), None))
    }
    base = titled(quality.baseline)
    first = next(iter(shown.values()))
    rows = [
        [
            _(
                "{corpus}: {positions} tokens in {passages} passages",
                corpus=corpus_title(corpus, quality.baseline),
                positions=first.positions,
                passages=first.passages,
            ),
            *(titled(name) for name in shown),
        ]
    ]

    formats = [quality.variants[name].cache_format for name in shown]
    if set(formats) != {"fp32"}:
        rows.append([_("keys and values in"), *(name.upper() for name in formats)])

    def add(title: str, figure: str, show: Callable[[float], str]) -> None:
        if not brief or figure in BRIEF:
            rows.append([title, *(estimate(found.figures[figure], show) for found in shown.values())])

    add(_("perplexity of {base}", base=base), "ppl_base", _plain)
    add(_("perplexity"), "ppl", _plain)
    add(_("perplexity / {base}", base=base), "ppl_ratio", lambda v: f"{v:.4f}")
    add(_("same likeliest token"), "same_top", lambda v: f"{100 * v:.1f} %")
    add(_("KL divergence, mean"), "kld_mean", small)
    added = {name: found for name, found in shown.items() if "kld_added" in found.figures}
    if added:
        cells = [estimate(found.figures["kld_added"], more) if name in added else "–" for name, found in shown.items()]
        rows.append([_("KL divergence, what this format of keys and values adds"), *cells])
    add(_("KL divergence, median"), "kld_median", small)
    for share, figure in (("90", "kld_90"), ("99", "kld_99"), ("99.9", "kld_999")):
        add(_("KL divergence, {share} %", share=share), figure, small)
    add(_("KL divergence, largest"), "kld_max", small)
    add(_("change of the right token's probability, mean"), "dp_mean", points)
    add(_("change of the right token's probability, RMS"), "dp_rms", lambda v: f"{100 * v:.2f} %")
    for share, figure in (
        ("1", "dp_1"),
        ("5", "dp_5"),
        ("25", "dp_25"),
        ("50", "dp_median"),
        ("75", "dp_75"),
        ("95", "dp_95"),
        ("99", "dp_99"),
    ):
        add(_("change of the right token's probability, {share} %", share=share), figure, points)
    rows.append(
        [_("error of KL from keeping {base} compactly", base=base), *(_compaction(found) for found in shown.values())]
    )
    return rows


def rating_rows(baseline: str, variant: str, rated: list[Rated]) -> list[list[str]]:
    """A heading and a row for each criterion that people rated."""
    rows = [["", titled(baseline), titled(variant), _("difference"), _("ratings")]]
    return rows + [
        [
            criterion_title(row.criterion),
            f"★ {row.baseline:.1f}",
            f"★ {row.variant:.1f}",
            estimate(row.difference, lambda v: signed(v, 1)),
            str(row.ratings),
        ]
        for row in rated
    ]


def vote_rows(votes: list[Voted]) -> list[list[str]]:
    """A heading and a row for each two that people voted on; none where nobody has voted."""
    if not votes:
        return []
    heading = [
        "A",
        "B",
        _("A better"),
        _("B better"),
        _("equal"),
        _("both bad"),
        _("blind"),
        _("for B, of those decided"),
    ]
    return [heading] + [
        [
            f"{found.first_model} {titled(found.first)}",
            f"{found.second_model} {titled(found.second)}",
            *(str(count) for count in (found.for_first, found.for_second, found.equal, found.bad)),
            f"{found.blind} / {found.votes}",
            estimate(found.preferred, lambda v: f"{100 * v:.0f} %") if found.preferred else "–",
        ]
        for found in votes
    ]


def judged_lines(baseline: str, judged: dict[str, list[Judged]]) -> list[str]:
    """A sentence for each variant and judge."""
    return [judged_line(baseline, variant, found) for variant, judges in judged.items() for found in judges]


def judged_line(baseline: str, variant: str, judged: Judged) -> str:
    """What a judge preferred, in a sentence."""
    alike = (
        ""
        if judged.similarity is None
        else _(" Similarity of the embeddings: {cosine:.3f} (mean cosine).", cosine=judged.similarity)
    )
    return (
        _(
            "{judge} judged {pairs} pairs in both orders: {variant} better in {better}, {base} better in {worse}, equal in "
            "{equal}, decided by the order alone in {positional}, not to be read in {unreadable}.",
            judge=judged.judge,
            pairs=judged.pairs,
            variant=titled(variant),
            base=titled(baseline),
            better=judged.variant,
            worse=judged.baseline,
            equal=judged.equal,
            positional=judged.positional,
            unreadable=judged.unreadable,
        )
        + alike
    )


def estimate(found: Estimate, show: Callable[[float], str]) -> str:
    """A figure with its 95 % interval; an open end is left out."""
    if found.low is None and found.high is None or found.low == found.high:
        return show(found.value)
    low, high = ("…" if end is None else show(end) for end in (found.low, found.high))
    unit = " %" if low.endswith(" %") and high.endswith(" %") else ""
    return f"{show(found.value)} [{low.removesuffix(unit)}, {high}]"


def small(value: float) -> str:
    """A divergence in nats."""
    return f"{value:.4f}" if abs(value) >= 0.001 else f"{value:.2g}" if value else "0"


def points(value: float) -> str:
    """A change of probability in percentage points."""
    return signed(100 * value, 2) + " %"


def more(value: float) -> str:
    """A difference of divergences in nats, with its sign."""
    return f"+{small(value)}" if value > 0 else small(value)


def signed(value: float, digits: int) -> str:
    """A change with its sign; what rounds to nothing has none."""
    text = f"{value:+.{digits}f}"
    return text.lstrip("+-") if float(text) == 0 else text


def _plain(value: float) -> str:
    return f"{value:.3f}" if value < 1000 else f"{value:.3g}"


def _compaction(found: Corpus) -> str:
    mean = found.figures["kld_mean"].value
    return f"± {100 * found.compaction_error / mean:.2f} %" if mean else "0"
