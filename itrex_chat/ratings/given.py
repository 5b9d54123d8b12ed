"""`ratings.json` in a run's folder: what people gave, stars by rater and sheet, and votes."""

import contextlib
import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from itrex_chat.foundation import files, stored
from itrex_chat.foundation.errors import RunError
from itrex_chat.foundation.language import _

if TYPE_CHECKING:
    from itrex_chat.ratings.votes import Vote

RATINGS = "ratings.json"
FORMAT_VERSION = 2
WITHOUT_VOTES = 1  # the format before


@dataclass(frozen=True)
class _Stars:
    """What one rater gave to the pair of one item, by criterion and variant."""

    model: str
    question: str
    baseline: str
    variant: str
    scores: dict[str, dict[str, int]]


@dataclass(frozen=True)
class _Sheet:
    rater: str
    sheet: str
    ratings: list[_Stars]


def ratings_of(run: Path) -> list[dict[str, Any]]:
    """All stars of a run: one entry for each item and rater. Raises RunError."""
    return [rating | {"rater": entry["rater"]} for entry in _kept(run)["sheets"] for rating in entry["ratings"]]


def votes_of(run: Path) -> "list[Vote]":
    """All votes of a run. Raises RunError."""
    return [_vote(entry) for entry in _kept(run)["votes"]]


def keep(run: Path, rater: str, sheet: str, ratings: list[dict[str, Any]]) -> None:
    """Add one rater's ratings of a sheet, in place of earlier ones."""
    with _changing(run) as kept:
        kept["sheets"] = [entry for entry in kept["sheets"] if (entry["rater"], entry["sheet"]) != (rater, sheet)]
        kept["sheets"].append({"rater": rater, "sheet": sheet, "ratings": ratings})


def keep_votes(run: Path, votes: "list[Vote]") -> None:
    """Add votes, each in place of an earlier one on the same answers. Raises RunError."""
    ids = {vote.id for vote in votes}
    with _changing(run) as kept:
        kept["votes"] = [entry for entry in kept["votes"] if entry["id"] not in ids]
        kept["votes"] += map(dataclasses.asdict, votes)


@contextlib.contextmanager
def _changing(run: Path) -> Iterator[dict[str, Any]]:
    """What was given so far, written again when the block ends."""
    from filelock import FileLock

    with files.disk_errors(RunError, _("Writing the run {folder}", folder=run)), FileLock(run / ".ratings.lock"):
        kept = _kept(run)
        yield kept
        files.write_json(run / RATINGS, {"format": FORMAT_VERSION} | kept)


def _kept(run: Path) -> dict[str, Any]:
    path = run / RATINGS
    if not path.exists():
        return {"sheets": [], "votes": []}
    version = WITHOUT_VOTES if stored.format_of(path) == WITHOUT_VOTES else FORMAT_VERSION
    return stored.read(path, version, _checked)


def _checked(content: dict[str, Any]) -> dict[str, Any]:
    stored.checked(list[_Sheet], content["sheets"])
    votes = content["votes"] if content["format"] == FORMAT_VERSION else []
    for entry in votes:
        _vote(entry)
    return {"sheets": content["sheets"], "votes": votes}


def _vote(entry: dict[str, Any]) -> "Vote":
    """Raises ValueError, TypeError, KeyError for one that this program did not write."""
    from itrex_chat.ratings.votes import Vote

    answers = tuple((model, variant) for model, variant in entry["answers"])
    texts = [entry["id"], entry["question"], *(text for answerer in answers for text in answerer)]
    if not all(isinstance(text, str) for text in texts) or not isinstance(entry["blind"], bool):
        raise ValueError(entry)
    if any(type(place) is not int for place in entry["best"]):
        raise ValueError(entry)
    return Vote(entry["id"], entry["question"], answers, tuple(entry["best"]), entry["blind"])
