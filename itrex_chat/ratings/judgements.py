"""`judgements.json` in a run's folder, and what it says of a variant."""

import dataclasses
import math
from dataclasses import dataclass
from pathlib import Path
from statistics import mean
from typing import Any

from itrex_chat.foundation import files, stored
from itrex_chat.foundation.errors import RunError
from itrex_chat.foundation.language import _

FILE = "judgements.json"
FORMAT_VERSION = 2
ONE_JUDGE = 1  # the format before, which had room for one judge
SAID = ("baseline", "variant", "equal", "")


@dataclass(frozen=True)
class Judgement:
    """What the judge said with the baseline first and with it second: "baseline", "variant", "equal", or "" for nothing
    that can be read. A pair is decided where both orders name the same one. `similarity` is the cosine of the answers'
    embeddings, where it was asked for."""

    id: str
    baseline_first: str
    variant_first: str
    similarity: float | None = None


Models = dict[str, dict[str, list[Judgement]]]  # one judge's, by model and variant


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


def write(run: Path, judge: str, models: Models) -> None:
    """Keep what a judge has said so far in place of what it had said before; other judges' stays. Raises RunError."""
    from filelock import FileLock

    with files.disk_errors(RunError, _("Writing the run {folder}", folder=run)), FileLock(run / ".judgements.lock"):
        judges = _judges(run) | {judge: models}
        content = {name: _plain(said) for name, said in judges.items()}
        files.write_json(run / FILE, {"format": FORMAT_VERSION, "judges": content})


def given_by(run: Path, judge: str) -> Models:
    """What this judge has said so far. Raises RunError."""
    return _judges(run).get(judge, {})


def read(run: Path) -> dict[str, dict[str, list[Judged]]]:
    """By model and variant, a line for each judge; empty where nothing was judged. Raises RunError."""
    found: dict[str, dict[str, list[Judged]]] = {}
    for judge, models in _judges(run).items():
        for label, variants in models.items():
            for variant, given in variants.items():
                found.setdefault(label, {}).setdefault(variant, []).append(_judged(judge, given))
    return found


def _judges(run: Path) -> dict[str, Models]:
    """What each judge has said, in the order in which they came."""
    path = run / FILE
    if not path.exists():
        return {}
    if stored.format_of(path) == ONE_JUDGE:
        return stored.read(path, ONE_JUDGE, lambda content: {_text(content["judge"]): _models(content["models"])})
    return stored.read(
        path, FORMAT_VERSION, lambda content: {judge: _models(models) for judge, models in content["judges"].items()}
    )


def _models(content: dict[str, Any]) -> Models:
    return {
        label: {variant: [_judgement(entry) for entry in given] for variant, given in variants.items()}
        for label, variants in content.items()
    }


def _judgement(entry: dict[str, Any]) -> Judgement:
    """Raises ValueError, TypeError for one that this program did not write."""
    found = Judgement(**entry)
    cosine = found.similarity
    if cosine is not None and (type(cosine) not in (int, float) or not math.isfinite(cosine)):
        raise ValueError(cosine)
    if found.baseline_first not in SAID or found.variant_first not in SAID:
        raise ValueError(found)
    _text(found.id)
    return found


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError(value)
    return value


def _plain(models: Models) -> dict[str, Any]:
    return {
        label: {variant: [dataclasses.asdict(judgement) for judgement in given] for variant, given in variants.items()}
        for label, variants in models.items()
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
