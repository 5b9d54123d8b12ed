"""What a report says in words beside its figures: what is missing, what disturbed, what else there is to know."""

from itrex_chat.comparison import Comparison, ModelComparison
from itrex_chat.engines import engine_of
from itrex_chat.foundation.language import _
from itrex_chat.report.drafting import drafting_lines
from itrex_chat.settings.variant import titled

DISTURBED = 0.05  # share of the time without a core from which on a report says so


def disturbed(model: ModelComparison) -> list[str]:
    """A sentence for each variant whose speed is not its own, because something else had the cores."""
    return [
        _(
            "{variant}: something else took {share:.0f} % of the cores' time while it answered; its speed here is too low.",
            variant=titled(figures.variant),
            share=100 * figures.contention,
        )
        for figures in model.figures
        if figures.contention is not None and figures.contention > DISTURBED
    ]


def _machine_lines(model: ModelComparison) -> list[str]:
    """Which machine a model's times are of, where its answers are of several."""
    lines, cpus = [], model.machines
    for figures in model.figures:
        if figures.timed is not None:
            lines.append(
                _(
                    "{variant}: answers of several machines; the times are of the {timed} of {answers} that {machine} ({cpu}) "
                    "gave.",
                    variant=titled(figures.variant),
                    timed=figures.timed,
                    answers=figures.answers,
                    machine=figures.machine,
                    cpu=cpus.get(figures.machine or "", "?"),
                )
            )
        if figures.machine and not model.on_one_machine(figures):
            lines.append(
                _(
                    "{variant} was timed on {machine} ({cpu}) and {base} on {other}; speeds of different machines are not "
                    "compared.",
                    variant=titled(figures.variant),
                    base=titled(model.baseline),
                    machine=figures.machine,
                    cpu=cpus.get(figures.machine, "?"),
                    other=model.figures[0].machine,
                )
            )
    return lines


def missing(model: ModelComparison) -> list[str]:
    """A sentence for each variant that did not answer, or not everything."""
    count = len(next(iter(model.pairs.values())))
    lines = []
    for figures in model.figures:
        if figures.answers < count:
            reason = (
                _("The run was interrupted; the same python -m itrex_chat.ask goes on with it.")
                if figures.state in ("waiting", "asking")
                else figures.reason
            )
            lines.append(
                _(
                    "{variant}: {answers} of {count} questions answered. {reason}",
                    answers=figures.answers,
                    variant=titled(figures.variant),
                    count=count,
                    reason=reason,
                ).strip()
            )
    for name, variant in (model.quality.variants if model.quality else {}).items():
        if variant.reason:
            lines.append(_("{variant} was not measured: {reason}", variant=titled(name), reason=variant.reason))
    answered = next(figures.answers for figures in model.figures if figures.variant == model.baseline)
    if model.quality and len(model.quality.answers) < answered and model.quality.baseline == model.baseline:
        lines.append(
            _(
                "Measured on {measured} of {answers} answers; measure again: python -m itrex_chat.measure",
                measured=len(model.quality.answers),
                answers=answered,
            )
        )
    return lines


def remarks(model: ModelComparison) -> list[str]:
    """What another engine's quantization was, what drafts gave and what was answered together, a variant after the other."""
    return [*drafting_lines(model), *_batch_lines(model), *_machine_lines(model), *_engine_lines(model)]


def _batch_lines(model: ModelComparison) -> list[str]:
    return [
        _(
            "{variant}: one answer was made together with others, up to {most} at a time: {tokens} tokens in {seconds:.1f} s. "
            "Its times are in no other figure.",
            variant=titled(figures.variant),
            most=found.most,
            tokens=found.tokens,
            seconds=found.seconds,
        )
        if found.answers == 1
        else _(
            "{variant}: {answers} answers were made together, up to {most} at a time: {tokens} tokens in {seconds:.1f} s, "
            "{rate:.1f} per second. Their times are in no other figure.",
            variant=titled(figures.variant),
            answers=found.answers,
            most=found.most,
            tokens=found.tokens,
            seconds=found.seconds,
            rate=found.tokens / found.seconds if found.seconds else 0.0,
        )
        for figures in model.figures
        if (found := figures.batch)
    ]


def _engine_lines(model: ModelComparison) -> list[str]:
    return [
        f"{titled(figures.variant)}: {line}"
        for figures in model.figures
        if figures.engine
        for line in engine_of(figures.variant).told(figures.engine)
    ]


def absent(comparison: Comparison) -> list[str]:
    """A sentence for each model without any answer."""
    return [
        _("{model}: no answers yet. The run was interrupted, or each variant was skipped or failed.", model=label)
        for label in comparison.absent
    ]


def provenance(model: ModelComparison) -> str:
    """Where the weights of the baseline came from."""
    origin = model.origin
    where = origin.get("repository") or origin.get("path") or f"{origin.get('name')} {origin.get('version')}"
    text = _("{base} weights: {stored}, from {where}.", base=titled(model.baseline), stored=model.stored, where=where)
    if storage := model.figures[0].storage:
        text += _(
            " {base} is computed in 32 bits and kept in these 16 ({storage}): the values are the same, and half as much is read.",
            base=titled(model.baseline),
            storage=storage,
        )
    if model.integers_were_taken:
        text += _(
            " They are integers that another program chose; an INT4 variant takes the same ones, so that it differs by the "
            "rounding of activations alone. What quantizing cost only the original model can show."
        )
    elif model.weights_were_quantized:
        text += _(
            " They were quantized before, which makes INT4 look better here than it is against the original model."
        )
    return text
