"""The blind score sheet: a CSV file for a spreadsheet, its key, and a filled one read back."""

import csv
import hashlib
import io
import random
import secrets
import unicodedata
from pathlib import Path
from typing import Any

from itrex_chat.foundation import files, stored
from itrex_chat.foundation.errors import RunError
from itrex_chat.foundation.harmless import for_spreadsheet, kept_by_spreadsheets
from itrex_chat.foundation.language import LANGUAGES, _, speaking
from itrex_chat.ratings import given
from itrex_chat.ratings.criteria import CRITERIA, criterion_title
from itrex_chat.ratings.pairs import Pair

NOT_APPLICABLE = "-"
FOLDER = "sheets"
FORMAT_VERSION = 1
LARGEST = 32 << 20  # bytes
SHOWN = 5  # problems of a sheet that are told at once


def header() -> list[str]:
    return [
        _("item"),
        _("question"),
        _("answer A"),
        _("answer B"),
        *(
            _("{criterion} {side} (1-5)", criterion=criterion_title(name), side=side)
            for name in CRITERIA
            for side in "AB"
        ),
    ]


def make(pairs: list[Pair], run: Path, out: Path) -> int:
    """Write a sheet of pairs to `out` and its key into the run's folder; how many items it has.

    Raises RunError where there are no pairs, or `out` exists.
    """
    if out.exists():
        raise RunError(_("{path} is there already; name another file, or remove it.", path=out))
    if not pairs:
        raise RunError(_("There is nothing to score in {run}: no two answers differ.", run=run))
    name, order, key, text = secrets.token_hex(3), random.SystemRandom(), {}, io.StringIO()
    writer = csv.writer(text, lineterminator="\r\n")
    writer.writerow(header())
    for number, pair in enumerate(order.sample(pairs, len(pairs)), 1):
        sides = [(pair.baseline, pair.baseline_text), (pair.variant, pair.variant_text)]
        order.shuffle(sides)
        item = f"{name}-{number:03d}"
        cells = [pair.question, sides[0][1], sides[1][1]]
        key[item] = {
            "model": pair.model,
            "question": pair.id,
            "baseline": pair.baseline,
            "variant": pair.variant,
            "A": sides[0][0],
            "B": sides[1][0],
            "digest": _digest(cells),
        }
        shown = (for_spreadsheet(kept_by_spreadsheets(cell)) for cell in cells)
        writer.writerow([item, *shown, *[""] * (2 * len(CRITERIA))])
    with files.disk_errors(RunError, _("Writing the run {folder}", folder=run)):
        (run / FOLDER).mkdir(exist_ok=True)
        files.write_json(run / FOLDER / f"{name}.json", {"format": FORMAT_VERSION, "items": key})
    with files.disk_errors(RunError, _("Writing {path}", path=out)):
        files.write_text(out, "\ufeff" + text.getvalue())  # the mark tells spreadsheets that it is UTF-8
    return len(pairs)


def read(sheet: Path, run: Path, rater: str) -> int:
    """Check a filled sheet against its key and keep its ratings with the run; how many items it has.

    Raises RunError that names the first rows that were changed, are missing
    or are not filled; nothing is kept then.
    """
    titles, *rows = _rows(sheet)
    if not any(titles == _titles(language) for language in LANGUAGES):
        raise RunError(
            _("{sheet}: the first row is not that of a score sheet; columns must stay as they were.", sheet=sheet)
        )
    if not rows:
        raise RunError(_("{sheet} is empty.", sheet=sheet))
    key = _key(rows, run, sheet)
    problems, ratings, seen = [], [], set()
    for number, row in enumerate(rows, 2):
        item = row[0].strip()
        known = key.get(item)
        if known is None or item in seen:
            problems.append(
                _("row {row}: {item!r} is not an item of this sheet, or stands there twice", row=number, item=item)
            )
            continue
        seen.add(item)
        if len(row) != len(titles) or _digest(row[1:4]) != known["digest"]:
            problems.append(_("row {row}: the question or an answer was changed", row=number))
            continue
        wrong, scores = _stars(row, number, titles, known)
        problems += wrong
        ratings.append({field: known[field] for field in ("model", "question", "baseline", "variant")} | scores)
    problems += [_("item {item} is missing", item=item) for item in key if item not in seen]
    if problems:
        more = _("; and {count} more", count=len(problems) - SHOWN) if len(problems) > SHOWN else ""
        raise RunError(
            _("{sheet} cannot be used: {problems}{more}.", sheet=sheet, problems="; ".join(problems[:SHOWN]), more=more)
        )
    given.keep(run, rater, next(iter(seen)).partition("-")[0], ratings)
    return len(ratings)


def _stars(row: list[str], number: int, titles: list[str], known: dict[str, str]) -> tuple[list[str], dict[str, Any]]:
    """What is wrong with the scores in a row, and those that both answers have, as {"scores": {criterion: …}}."""
    problems: list[str] = []
    scores: dict[str, dict[str, int]] = {}
    for column, cell in enumerate(row[4:]):
        name, side, title = CRITERIA[column // 2], "AB"[column % 2], titles[4 + column]
        score = _score(cell)
        if score:
            scores.setdefault(name, {})[known[side]] = score
        elif score is None and cell.strip():
            problems.append(
                _("row {row}, {column}: {cell!r} is not a number from 1 to 5", row=number, column=title, cell=cell)
            )
        elif score is None:
            problems.append(
                _(
                    "row {row}, {column}: not filled ({mark} where it does not apply)",
                    row=number,
                    column=title,
                    mark=NOT_APPLICABLE,
                )
            )
    return problems, {"scores": {name: stars for name, stars in scores.items() if len(stars) == 2}}


def _rows(sheet: Path) -> list[list[str]]:
    """The rows of a CSV file as spreadsheets save it: UTF-8 or GB 18030, commas, semicolons or tabs."""
    try:
        if sheet.stat().st_size > LARGEST:
            raise RunError(_("{file} is too large to be what its name says.", file=sheet))
        content = sheet.read_bytes()
    except OSError as error:
        raise RunError(_("{path} cannot be read: {reason}.", path=sheet, reason=error.strerror)) from None
    for encoding in ("utf-8-sig", "gb18030"):
        try:
            text = content.decode(encoding)
            break
        except UnicodeDecodeError:
            continue
    else:
        raise RunError(_("{sheet} is neither in UTF-8 nor in GB 18030; save it as CSV in UTF-8.", sheet=sheet))
    first = text.partition("\n")[0]
    delimiter = max(",;\t", key=first.count)
    csv.field_size_limit(LARGEST)
    try:
        rows = [row for row in csv.reader(io.StringIO(text, newline=""), delimiter=delimiter) if any(row)]
    except csv.Error as error:
        raise RunError(_("{sheet} is not a CSV file ({reason}).", sheet=sheet, reason=error)) from None
    if not rows:
        raise RunError(_("{sheet} is empty.", sheet=sheet))
    return rows


def _titles(language: str) -> list[str]:
    with speaking(language):
        return header()


def _key(rows: list[list[str]], run: Path, sheet: Path) -> dict[str, dict[str, str]]:
    name = rows[0][0].strip().partition("-")[0]
    path = run / FOLDER / f"{name}.json"
    if not (name.isalnum() and name.isascii()) or not path.is_file():
        raise RunError(
            _(
                "{sheet} is not a sheet of the run {run}: there is no key for it in {folder}.",
                sheet=sheet,
                run=run,
                folder=run / FOLDER,
            )
        )
    return stored.read(path, FORMAT_VERSION, _items)


def _items(content: dict[str, Any]) -> dict[str, dict[str, str]]:
    items = stored.checked(dict[str, dict[str, str]], content["items"])
    for entry in items.values():
        [entry[field] for field in ("model", "question", "baseline", "variant", "A", "B", "digest")]
    return items


def _score(cell: str) -> int | None:
    """1 to 5, written as a number or as stars; 0 where it does not apply; None for anything else."""
    text = unicodedata.normalize("NFKC", cell).strip()
    if text in (NOT_APPLICABLE, "–", "—"):
        return 0
    if text and set(text) <= {"★", "☆"} and "★" in text and len(text) <= 5:
        return text.count("★")
    text = text.removesuffix(".0")
    return int(text) if text in ("1", "2", "3", "4", "5") else None


def _digest(cells: list[str]) -> str:
    """What spreadsheets may change does not count: line ends, spaces at the ends, the apostrophe before a formula."""
    joined = "\0".join(
        "\n".join(line.rstrip() for line in kept_by_spreadsheets(cell).removeprefix("'").strip().split("\n"))
        for cell in cells
    )
    return hashlib.sha256(joined.encode()).hexdigest()
