"""`ratings.json` in a run's folder: what people gave, by rater and sheet."""

from pathlib import Path
from typing import Any

from itrex_chat.foundation import files, stored
from itrex_chat.foundation.errors import RunError
from itrex_chat.foundation.language import _

RATINGS = "ratings.json"
FORMAT_VERSION = 1


def ratings_of(run: Path) -> list[dict[str, Any]]:
    """All ratings of a run: one entry for each item and rater. Raises RunError."""
    return [rating | {"rater": entry["rater"]} for entry in _kept(run) for rating in entry["ratings"]]


def keep(run: Path, rater: str, sheet: str, ratings: list[dict[str, Any]]) -> None:
    """Add one rater's ratings of a sheet, in place of earlier ones."""
    others = [entry for entry in _kept(run) if (entry["rater"], entry["sheet"]) != (rater, sheet)]
    with files.disk_errors(RunError, _("Writing the run {folder}", folder=run)):
        files.write_json(
            run / RATINGS,
            {"format": FORMAT_VERSION, "sheets": [*others, {"rater": rater, "sheet": sheet, "ratings": ratings}]},
        )


def _kept(run: Path) -> list[dict[str, Any]]:
    path = run / RATINGS
    return stored.read(path, FORMAT_VERSION, _sheets) if path.exists() else []


def _sheets(content: dict[str, Any]) -> list[dict[str, Any]]:
    for entry in content["sheets"]:
        entry["rater"], entry["sheet"], [rating["scores"] for rating in entry["ratings"]]
    return content["sheets"]
