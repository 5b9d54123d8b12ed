"""`quality.json` in a run's folder: what was measured of its models, as the comparison reads it."""

import dataclasses
import math
import os
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from itrex_chat.foundation import files, stored
from itrex_chat.foundation.errors import RunError
from itrex_chat.foundation.language import _
from itrex_chat.quality.measuring import Corpus, Measurement
from itrex_chat.quality.passages import ANSWERS

FILE = "quality.json"
FORMAT_VERSION = 1


@dataclass(frozen=True)
class AnswerScores:
    """A variant at each token of one of the baseline's answers."""

    p: list[float]  # its probability of the token
    kl: list[float]  # nats


@dataclass(frozen=True)
class VariantQuality:
    corpora: list[Corpus]
    answers: dict[str, AnswerScores]  # by the question's id
    reason: str = ""  # why it was not measured
    cache_format: str = "fp32"  # of its keys and values


@dataclass(frozen=True)
class AnswerTokens:
    """One of the baseline's answers, token by token; pieces of text that a later token completes are empty."""

    pieces: list[str]
    p: list[float]  # the baseline's probability of each token


@dataclass(frozen=True)
class ModelQuality:
    baseline: str
    reference_bytes: int
    variants: dict[str, VariantQuality]
    answers: dict[str, AnswerTokens] = field(default_factory=dict)
    command: str = ""  # that measured it


def of(measured: Measurement, command: str = "") -> ModelQuality:
    """What is kept of a measurement."""
    spans, start = {}, 0
    for passage in measured.passages:
        if passage.corpus == ANSWERS:
            spans[passage.name] = slice(start, start + passage.positions)
            start += passage.positions
    variants, base = {}, None
    for variant in measured.variants:
        found = variant.found.get(ANSWERS)
        base = found if base is None else base
        variants[variant.variant] = VariantQuality(
            variant.corpora,
            {
                name: AnswerScores(_probabilities(found.log[span]), [round(float(kl), 5) for kl in found.kl[span]])
                for name, span in spans.items()
            }
            if found
            else {},
            variant.reason,
            variant.cache_format,
        )
    answers = (
        {name: AnswerTokens(measured.pieces[name], _probabilities(base.base_log[span])) for name, span in spans.items()}
        if base
        else {}
    )
    return ModelQuality(measured.baseline, measured.reference.nbytes(measured.passages), variants, answers, command)


def write(folder: Path, models: dict[str, ModelQuality]) -> None:
    with files.disk_errors(RunError, _("Writing the run {folder}", folder=folder)):
        files.write_json(
            folder / FILE,
            {
                "format": FORMAT_VERSION,
                "models": {label: dataclasses.asdict(quality) for label, quality in models.items()},
            },
        )


def read(folder: Path) -> dict[str, ModelQuality]:
    """What was measured of the run in `folder`, by model; empty if nothing was. Raises RunError."""
    path = folder / FILE
    if not os.path.lexists(path):
        return {}
    try:
        content = stored.parsed_json(files.text_of(path, RunError))
        if content["format"] != FORMAT_VERSION:
            raise RunError(_("{path} was written by another version of this program.", path=path))
        return {label: stored.checked(ModelQuality, values) for label, values in content["models"].items()}
    except (ValueError, KeyError, TypeError, AttributeError):
        raise RunError(
            _("{path} is damaged; measure again: python -m itrex_chat.measure {folder}", path=path, folder=folder)
        ) from None


def _probabilities(logs: np.ndarray) -> list[float]:
    return [round(math.exp(log), 5) for log in logs]
