"""The blind score sheet: out, filled in a spreadsheet, and back; nothing that was changed or left out gets in."""

import csv
import io
import itertools
import json
from functools import partial
from pathlib import Path

import pytest
from test_compare import answer, record

from itrex_chat import compare as comparing
from itrex_chat import sheet as verb
from itrex_chat.foundation.language import speaking
from itrex_chat.ratings.criteria import CRITERIA
from itrex_chat.ratings.given import ratings_of
from itrex_chat.report.terminal import as_text

TEXTS = {"fp32": "=1+1\r\n今天天气“很好”，\n我们去公园。", "int4": '@x; a,b "q"\u202e\nsecond\tline  '}


@pytest.fixture
def run(tmp_path) -> Path:
    answers = [answer(variant, id, f"{text} {id}", [1, len(text)]) for variant, text in TEXTS.items() for id in "ab"]
    return record(tmp_path / "run", answers).folder


@pytest.fixture
def sheet(run, tmp_path) -> Path:
    assert verb.main(["make", str(tmp_path / "sheet.csv"), "--run", str(run)]) == 0
    return tmp_path / "sheet.csv"


def rows(sheet: Path) -> list[list[str]]:
    return list(csv.reader(io.StringIO(sheet.read_text("utf-8-sig"), newline="")))


def save(
    sheet: Path, content: list[list[str]], encoding: str = "utf-8-sig", delimiter: str = ",", end: str = "\n"
) -> None:
    text = io.StringIO(newline="")
    csv.writer(text, delimiter=delimiter, lineterminator=end).writerows(content)
    sheet.write_bytes(text.getvalue().encode(encoding))


def fill(run: Path, sheet: Path, stars: dict[str, str]) -> list[list[str]]:
    """Give each variant its stars, as somebody who knows the key."""
    [key_file] = (run / "sheets").glob("*.json")
    key = json.loads(key_file.read_text("utf-8"))["items"]
    content = rows(sheet)
    for row in content[1:]:
        row[4:] = [stars[key[row[0]][side]] for _criterion in CRITERIA for side in "AB"]
    return content


def read(sheet: Path, run: Path, capsys, *options: str) -> tuple[int, str]:
    capsys.readouterr()
    return verb.main(["read", str(sheet), "--run", str(run), *options]), capsys.readouterr().err


def test_a_sheet_does_not_say_who_is_who(sheet, run):
    text = sheet.read_text("utf-8-sig").lower()
    assert "fp32" not in text and "int4" not in text and len(rows(sheet)) == 3
    assert all(not cell or cell[0] not in "=+-@" for row in rows(sheet) for cell in row)


def test_sides_are_drawn_by_lot(run, tmp_path):
    drawn = set()
    for number in range(16):
        assert verb.main(["make", str(tmp_path / f"{number}.csv"), "--run", str(run)]) == 0
    for key in (run / "sheets").glob("*.json"):
        drawn |= {entry["A"] for entry in json.loads(key.read_text("utf-8"))["items"].values()}
    assert drawn == {"fp32", "int4"}


@pytest.mark.parametrize("form", [{}, {"encoding": "gb18030"}, {"delimiter": ";"}, {"delimiter": "\t", "end": "\r\n"}])
def test_a_filled_sheet_comes_back_as_it_was_meant(sheet, run, capsys, form):
    save(sheet, fill(run, sheet, {"fp32": "★★★★☆", "int4": "2"}), **form)
    assert read(sheet, run, capsys, "--rater", "Li") == (0, "")
    given = ratings_of(run)
    assert len(given) == 2 and {rating["rater"] for rating in given} == {"Li"}
    assert all(rating["scores"] == {name: {"fp32": 4, "int4": 2} for name in CRITERIA} for rating in given)
    text = as_text(comparing.compare([run]))
    assert "★ 4.0  ★ 2.0" in text and "-2.0" in text
    assert "★ 4.0" in (run / "comparison.html").read_text("utf-8") and "★ 2.0" in (run / "comparison.md").read_text(
        "utf-8"
    )


def test_a_sheet_in_chinese_is_read_by_a_program_that_speaks_english(run, tmp_path, capsys):
    with speaking("zh"):
        verb.make(run, tmp_path / "zh.csv")
    assert "语言理解 A（1-5）" in rows(tmp_path / "zh.csv")[0]
    save(tmp_path / "zh.csv", fill(run, tmp_path / "zh.csv", {"fp32": "３", "int4": "-"}))
    assert read(tmp_path / "zh.csv", run, capsys)[0] == 0
    assert [rating["scores"] for rating in ratings_of(run)] == [{}, {}]


def test_the_same_rater_replaces_and_another_adds(sheet, run, capsys):
    for rater, stars in (("Li", "1"), ("Li", "5"), ("Wang", "3")):
        save(sheet, fill(run, sheet, {"fp32": stars, "int4": "4"}))
        assert read(sheet, run, capsys, "--rater", rater)[0] == 0
    assert [rating["scores"]["logic"]["fp32"] for rating in ratings_of(run)] == [5, 5, 3, 3]


def change(row: int, column: int, value: str):
    def apply(content):
        content[row][column] = value

    return apply


@pytest.mark.parametrize(
    "tamper, reason",
    [
        (change(1, 4, ""), "row 2, language understanding A (1-5): not filled"),
        (change(2, 7, "6"), "row 3, logic B (1-5): '6' is not a number from 1 to 5"),
        (change(1, 5, "4.5"), "is not a number from 1 to 5"),
        (change(1, 5, "=1+1"), "is not a number from 1 to 5"),
        (change(1, 2, "a better answer"), "row 2: the question or an answer was changed"),
        (change(2, 1, "another question"), "row 3: the question or an answer was changed"),
        (change(2, 0, "zzz"), "row 3: 'zzz' is not an item of this sheet"),
        (change(1, 0, "../../etc-1"), "there is no key for it"),
        (change(0, 5, "quality"), "the first row"),
        (lambda content: content.pop(), "is missing"),
        (lambda content: content.append(content[1]), "stands there twice"),
        (lambda content: content[1].pop(), "row 2"),
        (lambda content: content.clear(), "is empty"),
        (lambda content: content.__setitem__(slice(1, None), []), "is empty"),
        (lambda content: content.__setitem__(slice(None), [["a line of a text"]]), "the first row"),
    ],
)
def test_a_tampered_or_half_filled_sheet_is_refused_with_the_place(sheet, run, capsys, tamper, reason):
    content = fill(run, sheet, {"fp32": "4", "int4": "2"})
    tamper(content)
    save(sheet, content)
    code, error = read(sheet, run, capsys)
    assert code == 1 and reason in error and "Traceback" not in error
    assert ratings_of(run) == []


def places(value, path=()):
    """The way to each value within values."""
    yield path
    for key, inner in value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ():
        yield from places(inner, (*path, key))


def test_a_key_or_ratings_that_somebody_edited_are_damaged_and_no_traceback(sheet, run, capsys):
    odd = itertools.cycle([None, [1], {"a": []}, 7.5, "x", {}, []])
    save(sheet, fill(run, sheet, {"fp32": "4", "int4": "2"}))
    assert read(sheet, run, capsys)[0] == 0
    [key_file] = (run / "sheets").glob("*.json")
    reading = partial(verb.main, ["read", str(sheet), "--run", str(run)])
    for file, use in ((key_file, reading), (run / "ratings.json", partial(comparing.main, [str(run)]))):
        whole = json.loads(file.read_text("utf-8"))
        for path in list(places(whole)):
            spoilt = json.loads(json.dumps({"": whole}))
            inner = spoilt
            for key in ("", *path)[:-1]:
                inner = inner[key]
            inner[("", *path)[-1]] = next(odd)
            file.write_text(json.dumps(spoilt[""]), "utf-8")
            assert use() in (0, 1), f"{spoilt['']}: {capsys.readouterr().err}"
        file.write_text(json.dumps(whole), "utf-8")


def test_a_sheet_of_another_run_or_no_sheet_at_all_is_refused(sheet, run, tmp_path, capsys):
    other = record(tmp_path / "other", [answer("fp32", "a", "x", [1]), answer("int4", "a", "x", [1])]).folder
    assert "no key" in read(sheet, other, capsys)[1]
    assert verb.main(["make", str(tmp_path / "new.csv"), "--run", str(other)]) == 1
    assert "no two answers differ" in capsys.readouterr().err
    (tmp_path / "bytes.csv").write_bytes(b"\xff\xff\x00")
    assert "save it as CSV in UTF-8" in read(tmp_path / "bytes.csv", run, capsys)[1]
    assert "cannot be read" in read(tmp_path / "none.csv", run, capsys)[1]


def test_a_sheet_that_is_there_is_not_overwritten(sheet, run, capsys):
    before = sheet.read_bytes()
    assert verb.main(["make", str(sheet), "--run", str(run)]) == 1
    assert "is there already" in capsys.readouterr().err and sheet.read_bytes() == before
