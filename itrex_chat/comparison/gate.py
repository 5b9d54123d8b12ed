"""Conditions that make a comparison fail: `--fail-if 'kld_mean>0.1'`."""

import math
import operator
import re
from dataclasses import dataclass

from itrex_chat.comparison.figures import AGREEMENT, MEASURED, NAMES, ONLINE, RATIOS, SHARES
from itrex_chat.comparison.types import Comparison, Figures, ModelComparison
from itrex_chat.foundation.choices import one_of
from itrex_chat.foundation.errors import RunError
from itrex_chat.foundation.language import _
from itrex_chat.quality.passages import ANSWERS
from itrex_chat.settings.variant import titled

OPERATORS = {">=": operator.ge, "<=": operator.le, ">": operator.gt, "<": operator.lt}
FORM = re.compile(r"\s*(?P<name>[a-z_0-9]+)(\.(?P<end>low|high))?\s*(?P<operator>>=|<=|>|<)\s*(?P<limit>\S+)\s*")


@dataclass(frozen=True)
class Condition:
    """A figure compared with a limit. `end` "low" or "high" means that end of the 95 % interval."""

    text: str
    name: str
    end: str | None
    operator: str
    limit: float

    def holds(self, value: float) -> bool:
        """A value that is no number holds every condition: it must not pass a gate."""
        return math.isnan(value) or OPERATORS[self.operator](value, self.limit)


def parse(text: str) -> Condition:
    """A condition as users write it. Raises RunError."""
    match = FORM.fullmatch(text)
    limit = _number(match["limit"]) if match else None
    if match is None or limit is None:
        raise RunError(
            _(
                "--fail-if: {text!r} is no condition; write a figure, one of < <= > >= and a number, such as "
                "'kld_mean>0.1'.",
                text=text,
            )
        )
    one_of("--fail-if", match["name"], NAMES, RunError)
    if match["end"] and match["name"] not in (*MEASURED, AGREEMENT):
        raise RunError(_("--fail-if: {name} has no interval; leave out .{end}.", name=match["name"], end=match["end"]))
    return Condition(text.strip(), match["name"], match["end"], match["operator"], limit)


def failures(comparison: Comparison, conditions: list[Condition]) -> list[str]:
    """A sentence for each variant and corpus in which a condition holds.

    The baseline is not checked. Raises RunError where a figure is not there
    for any model or variant: a gate that checks nothing must not look open.
    """
    found = []
    for condition in conditions:
        for model in comparison.models:
            others = [figures for figures in model.figures if figures.variant not in (model.baseline, ONLINE)]
            if not others:
                raise RunError(
                    _(
                        "--fail-if {text}: {model} has nothing to compare with {base}.",
                        text=condition.text,
                        model=model.model,
                        base=titled(model.baseline),
                    )
                )
            for figures in others:
                for where, value in _values(model, figures, condition):
                    if condition.holds(value):
                        found.append(
                            _(
                                "{model} {variant}: {name} is {value:.6g}{where} ({condition})",
                                model=model.model,
                                variant=titled(figures.variant),
                                where=where,
                                name=condition.name + (f".{condition.end}" if condition.end else ""),
                                value=value,
                                condition=condition.text,
                            )
                        )
    return found


def _values(model: ModelComparison, figures: Figures, condition: Condition) -> list[tuple[str, float]]:
    """The figure of a variant, for each corpus if it is a measured one, with where it was found."""
    name, variant = condition.name, figures.variant
    if name == AGREEMENT:
        return [("", _agreement(model, variant, condition))]
    if name not in MEASURED:
        value = _answered(model, figures, name)
        if value is None:
            raise RunError(
                _(
                    "--fail-if {text}: {name} of {model} {variant} is not known{reason}.",
                    text=condition.text,
                    name=name,
                    model=model.model,
                    variant=titled(variant),
                    reason=f" ({figures.reason.rstrip('.')})" if figures.reason else "",
                )
            )
        return [("", value)]
    measured = model.quality.variants.get(variant) if model.quality else None
    if measured is None or not measured.corpora:
        raise RunError(
            _(
                "--fail-if {text}: {model} {variant} was not measured; run python -m itrex_chat.measure first.",
                text=condition.text,
                model=model.model,
                variant=titled(variant),
            )
        )
    values = []
    for corpus in measured.corpora:
        value = getattr(corpus.figures[name], condition.end or "value")
        where = "" if corpus.name == ANSWERS else f" · {corpus.name}"
        values.append((where, math.nan if value is None else value))
    return values


def _agreement(model: ModelComparison, variant: str, condition: Condition) -> float:
    found = model.agreement(variant)
    if found is None:
        raise RunError(
            _(
                "--fail-if {text}: {variant} drafted no answer of {model} {base}, so that their agreement is not known.",
                text=condition.text,
                variant=titled(variant),
                model=model.model,
                base=titled(model.baseline),
            )
        )
    value = getattr(found.share, condition.end or "value")
    return math.nan if value is None else value


def _answered(model: ModelComparison, figures: Figures, name: str) -> float | None:
    if not figures.answers:
        return None
    if name in RATIOS:
        return model.ratio(figures, RATIOS[name])
    if name in SHARES:
        count, whole = getattr(figures, name), getattr(figures, SHARES[name])
        return None if count is None or not whole else count / whole
    return getattr(figures, name)


def _number(text: str) -> float | None:
    try:
        value = float(text)
    except ValueError:
        return None
    return value if math.isfinite(value) else None
