"""The way through: from passages to the figures of each variant against the baseline."""

import dataclasses
from dataclasses import dataclass
from pathlib import Path

from itrex_chat.engines import titled
from itrex_chat.foundation import machine
from itrex_chat.foundation.errors import RunError
from itrex_chat.foundation.language import _
from itrex_chat.foundation.units import readable
from itrex_chat.jobs.protocol import work
from itrex_chat.quality import metrics
from itrex_chat.quality.intervals import Estimate
from itrex_chat.quality.metrics import Positions
from itrex_chat.quality.passages import ANSWERS, WINDOW, Passage, of_text
from itrex_chat.quality.store import Parts
from itrex_chat.settings.recipe import Recipe

LARGEST_TEXT = 8 << 20  # bytes


@dataclass(frozen=True)
class Corpus:
    """One variant's figures on the answers or on one text."""

    name: str
    passages: int
    positions: int
    figures: dict[str, Estimate]
    compaction_error: float  # standard error that it adds to kld_mean, in nats


@dataclass(frozen=True)
class Measured:
    """One variant against the baseline. `found` holds the positions of each corpus, for what is not in the figures."""

    variant: str
    corpora: list[Corpus]
    found: dict[str, Positions]
    reason: str = ""  # why it was not measured


@dataclass(frozen=True)
class Measurement:
    """One model: which passages, and what each variant made of them."""

    baseline: str
    passages: list[Passage]
    pieces: dict[str, list[str]]  # the text of each token of each answer
    reference: Parts
    plan: dict  # of the worker: memory needs, keys, artifacts
    variants: list[Measured]


def measure(
    recipe: Recipe,
    baseline: str,
    variants: list[str],
    answers: list[Passage],
    texts: list[Path] = (),
    limit: int | None = None,
) -> Measurement:
    """Score variants against the baseline on the answers and on text files (the first `limit` tokens of each).

    Raises RunError where the baseline itself cannot be had; a variant that
    cannot says why in its place.
    """
    for text in texts:
        _check_text(text)
    longest = max([WINDOW, *(len(passage.ids) for passage in answers)])
    events = {
        event["event"]: event
        for event in work(
            {
                "task": "plan_scoring",
                "recipe": recipe.as_dict(),
                "baseline": baseline,
                "variants": variants,
                "answers": [passage.ids[passage.first :] for passage in answers],
                "texts": [str(text) for text in texts],
                "tokens": longest,
            }
        )
    }
    plan = events["planned"]
    passages = list(answers)
    for text, ids in zip(texts, plan["texts"]):
        ambiguous = text.name == ANSWERS or [other.name for other in texts].count(text.name) > 1
        windows = of_text(str(text) if ambiguous else text.name, ids[:limit])
        if not windows:
            raise RunError(_("{text} has fewer than two tokens; name a longer one.", text=text))
        passages += windows
    if not passages:
        raise RunError(
            _("There is nothing to measure on: no answer of {baseline}, and no --text.", baseline=titled(baseline))
        )
    for passage in passages:
        if passage.positions and max(passage.ids) >= plan["vocabulary"]:
            raise RunError(
                _(
                    "The answer {name} has tokens that this model does not have: it was given by another one.",
                    name=passage.name,
                )
            )
    reference = Parts("reference", plan["reference"])
    _run(recipe, baseline, passages, reference, None, plan)
    measured = [_variant(recipe, name, passages, reference, plan) for name in variants]
    pieces = {passage.name: found for passage, found in zip(answers, plan["pieces"])}
    return Measurement(baseline, passages, pieces, reference, plan, measured)


def _variant(recipe: Recipe, variant: str, passages: list[Passage], reference: Parts, plan: dict) -> Measured:
    if problem := plan["problems"].get(variant):
        return Measured(variant, [], {}, problem)
    scores = Parts("scores", plan["variants"][variant])
    try:
        _run(recipe, variant, passages, reference, scores, plan)
    except RunError as error:
        return Measured(variant, [], {}, str(error))
    found, corpora = {}, []
    for name in dict.fromkeys(passage.corpus for passage in passages):
        part = [passage for passage in passages if passage.corpus == name]
        found[name] = metrics.positions(
            [reference.read(passage) for passage in part], [scores.read(passage) for passage in part]
        )
        corpora.append(
            Corpus(
                name,
                len(part),
                len(found[name].kl),
                metrics.estimates(found[name]),
                metrics.compaction_error(found[name]),
            )
        )
    return Measured(variant, corpora, found)


def _run(
    recipe: Recipe, variant: str, passages: list[Passage], reference: Parts, scores: Parts | None, plan: dict
) -> None:
    """Have a variant go through the passages that are not in the cache yet. Raises RunError."""
    missing = (scores or reference).missing(passages)
    if not missing:
        return
    check_memory(variant, plan)
    for _event in work(
        {
            "task": "score",
            "recipe": recipe.as_dict(),
            "variant": variant,
            "passages": [dataclasses.asdict(passage) for passage in missing],
            "reference": reference.folder.name,
            "scores": scores.folder.name if scores else None,
        }
    ):
        pass


def check_memory(variant: str, plan: dict) -> None:
    """Raise RunError with the numbers where a variant would not fit."""
    needed, free = plan["needs"][variant], machine.available_memory()
    if needed > free:
        raise RunError(
            _(
                "Scoring {variant} needs {needed} of memory, but {free} is left.",
                variant=titled(variant),
                needed=readable(needed),
                free=readable(free),
            )
        )


def _check_text(text: Path) -> None:
    try:
        if text.stat().st_size > LARGEST_TEXT:
            raise RunError(
                _("{text} is larger than {limit}; name a shorter one.", text=text, limit=readable(LARGEST_TEXT))
            )
        text.read_text("utf-8")
    except OSError as error:
        raise RunError(_("{path} cannot be read: {reason}.", path=text, reason=error.strerror)) from None
    except UnicodeDecodeError:
        raise RunError(_("{text} is not a text in UTF-8.", text=text)) from None
