"""`ratings.json` in a run's folder: what people gave, by rater and sheet."""

import json
from pathlib import Path

from itrex_chat.foundation import files
from itrex_chat.foundation.errors import RunError
from itrex_chat.foundation.language import _

CRITERIA = ("understanding", "logic", "humour", "fluency")
RATINGS = "ratings.json"
FORMAT_VERSION = 1


def ratings_of(run: Path) -> list[dict]:
    """All ratings of a run: one entry for each item and rater. Raises RunError."""
    return [rating | {"rater": entry["rater"]} for entry in _kept(run) for rating in entry["ratings"]]


def keep(run: Path, rater: str, sheet: str, ratings: list[dict]) -> None:
    """Add one rater's ratings of a sheet, in place of earlier ones."""
    others = [entry for entry in _kept(run) if (entry["rater"], entry["sheet"]) != (rater, sheet)]
    with files.disk_errors(RunError, _("Writing the run {folder}", folder=run)):
        files.write_json(
            run / RATINGS,
            {"format": FORMAT_VERSION, "sheets": [*others, {"rater": rater, "sheet": sheet, "ratings": ratings}]},
        )


def _kept(run: Path) -> list[dict]:
    path = run / RATINGS
    if not path.exists():
        return []
    try:
        content = json.loads(path.read_text("utf-8"))
        if content["format"] != FORMAT_VERSION:
            raise ValueError
        for entry in content["sheets"]:
            entry["rater"], entry["sheet"], [rating["scores"] for rating in entry["ratings"]]
        return content["sheets"]
    except (OSError, ValueError, KeyError, TypeError):
        raise RunError(_("{path} is damaged.", path=path)) from None
