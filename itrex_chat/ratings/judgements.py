"""`judgements.json` in a run's folder, and what it says of a variant."""

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from statistics import mean
from typing import Any

from itrex_chat.foundation import files, stored
from itrex_chat.foundation.errors import RunError
from itrex_chat.foundation.language import _

FILE = "judgements.json"
FORMAT_VERSION = 1


@dataclass(frozen=True)
class Judgement:
    """What the judge said with the baseline first and with it second: "baseline", "variant", "equal", or "" for nothing
    that can be read. A pair is decided where both orders name the same one. `similarity` is the cosine of the answers'
    embeddings, where it was asked for."""

    id: str
    baseline_first: str
    variant_first: str
    similarity: float | None = None


@dataclass(frozen=True)
class Judged:
    """One variant against the baseline, in pairs of answers. `positional` pairs were decided by the order alone."""

    judge: str
    pairs: int
    baseline: int
    variant: int
    equal: int
    positional: int
    unreadable: int
    similarity: float | None  # mean


def write(run: Path, judge: str, models: dict[str, dict[str, list[Judgement]]]) -> None:
    with files.disk_errors(RunError, _("Writing the run {folder}", folder=run)):
        files.write_json(
            run / FILE,
            {
                "format": FORMAT_VERSION,
                "judge": judge,
                "models": {
                    label: {
                        variant: [dataclasses.asdict(judgement) for judgement in given]
                        for variant, given in variants.items()
                    }
                    for label, variants in models.items()
                },
            },
        )


def given_by(run: Path, judge: str) -> dict[str, dict[str, list[Judgement]]]:
    """What this judge has said so far, by model and variant. Raises RunError."""
    said = _said(run)
    return said[1] if said and said[0] == judge else {}


def read(run: Path) -> dict[str, dict[str, Judged]]:
    """By model and variant; empty where nothing was judged. Raises RunError."""
    judge, models = _said(run) or ("", {})
    return {
        label: {variant: _judged(judge, given) for variant, given in variants.items()}
        for label, variants in models.items()
    }


def _said(run: Path) -> tuple[str, dict[str, dict[str, list[Judgement]]]] | None:
    path = run / FILE
    return stored.read(path, FORMAT_VERSION, _judgements) if path.exists() else None


def _judgements(content: dict[str, Any]) -> tuple[str, dict[str, dict[str, list[Judgement]]]]:
    return str(content["judge"]), {
        label: {variant: [Judgement(**entry) for entry in given] for variant, given in variants.items()}
        for label, variants in content["models"].items()
    }


def _judged(judge: str, given: list[Judgement]) -> Judged:
    decided = [judgement.baseline_first for judgement in given if judgement.baseline_first == judgement.variant_first]
    similarities = [judgement.similarity for judgement in given if judgement.similarity is not None]
    return Judged(
        judge,
        len(given),
        decided.count("baseline"),
        decided.count("variant"),
        decided.count("equal"),
        sum({judgement.baseline_first, judgement.variant_first} == {"baseline", "variant"} for judgement in given),
        sum("" in (judgement.baseline_first, judgement.variant_first) for judgement in given),
        mean(similarities) if similarities else None,
    )
