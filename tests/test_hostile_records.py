"""Records that somebody edited, or that another clock or another model wrote: compared, or named in a sentence."""

import copy
import json
import os
import shutil
import time
from pathlib import Path

import pytest

from itrex_chat.comparison import compare_runs
from itrex_chat.foundation.errors import ItrexChatError, RunError
from itrex_chat.report import as_html
from itrex_chat.report.markdown import as_markdown
from itrex_chat.report.spreadsheets import as_csv, figures_csv
from itrex_chat.report.terminal import as_text
from itrex_chat.runs.record import ANSWERS, RUN, RunRecord, latest, place

OLD = Path(__file__).parent / "old_run"
VALUES = (None, -1, "x", {"x": 5}, "\ud800", 10**400)
DELETED = object()


@pytest.fixture
def old(tmp_path) -> Path:
    return Path(shutil.copytree(OLD, tmp_path / "old"))


def places(value, path=()):
    """Every place in plain values, as keys from the root on."""
    yield path
    for key, each in value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ():
        yield from places(each, (*path, key))


def edited(content, path, value):
    """A copy with another value at a place, or without it."""
    changed = {"root": copy.deepcopy(content)}
    part = changed
    for key, after in zip(("root", *path), path):
        part, last = part[key], after
    if value is DELETED:
        del part[last]
    else:
        part[last] = value
    return changed["root"]


def everything_of(run: Path) -> None:
    """All that is made of a run, unless a sentence says why not."""
    try:
        compared = compare_runs([run])
        for report in (as_html, as_markdown, as_csv, figures_csv, as_text):
            report(compared)
    except ItrexChatError as error:
        assert str(error) and "\n" not in str(error)


def edits(content):
    return [
        (path, edited(content, path, value))
        for path in places(content)
        if path
        for value in ((None, DELETED) if "recipe" in path or "packages" in path else (*VALUES, DELETED))
    ]


def test_an_edited_run_is_compared_or_named_and_stops_no_other(old, tmp_path):
    content = json.loads((OLD / RUN).read_text("utf-8"))
    spec = RunRecord.read(OLD).content.spec
    crashes = []
    for path, changed in edits(content):
        (old / RUN).write_text(json.dumps(changed), "utf-8")
        try:
            everything_of(old)
            place(tmp_path, spec)
        except Exception as error:
            crashes.append((path, repr(error)))
    assert crashes == []


def test_an_edited_answer_is_compared_or_named(old):
    lines = (OLD / ANSWERS).read_text("utf-8").splitlines()
    crashes = []
    for path, changed in edits(json.loads(lines[0])):
        (old / ANSWERS).write_text("\n".join([json.dumps(changed), *lines[1:], ""]), "utf-8")
        try:
            everything_of(old)
        except Exception as error:
            crashes.append((path, repr(error)))
    assert crashes == []


def test_the_newest_run_is_the_one_that_was_answered_last_whatever_its_name_says(home, monkeypatch):
    for name in ("20990101-000000", "20260101-000000", "20260102-000000"):
        shutil.copytree(OLD, home / "runs" / name)
    now = time.time()
    os.utime(home / "runs" / "20990101-000000" / ANSWERS, (now, now - 50))
    os.utime(home / "runs" / "20260101-000000" / ANSWERS, (now, now - 10))
    os.utime(home / "runs" / "20260102-000000" / ANSWERS, (now, now + 10**8))  # by a clock that was wrong
    assert latest().name == "20260101-000000"


@pytest.mark.parametrize("variant", ["int3", "nobody-int4", "", "../x"])
def test_a_run_of_a_variant_that_does_not_exist_is_a_sentence(old, variant):
    content = json.loads((old / RUN).read_text("utf-8"))
    content["spec"]["variants"] = [variant]
    (old / RUN).write_text(json.dumps(content), "utf-8")
    with pytest.raises(ItrexChatError):
        compare_runs([old])


IDENTITY = [
    (("spec", "models", 0, "recipe", "source", "path"), "/elsewhere/qwen2-tiny", "source.path"),
    (("models", "qwen2-tiny", "artifacts", "int4", "folder"), "/x/qwen2-tiny-int4_fullrange-g32-000000000000", "int4"),
    (("models", "qwen2-tiny", "generation", "max_new_tokens"), 5, "generation.max_new_tokens"),
    (("models", "qwen2-tiny", "generation", "do_sample"), True, "generation.do_sample"),
    (("models", "qwen2-tiny", "system"), "Answer at length.", "system"),
]


@pytest.mark.parametrize("path, value, named", IDENTITY)
def test_runs_that_asked_otherwise_under_the_same_name_are_not_joined(old, tmp_path, path, value, named):
    content = json.loads((OLD / RUN).read_text("utf-8"))
    if named == "source.path":
        content = edited(
            content, ("models", "qwen2-tiny", "artifacts"), DELETED
        )  # which would tell that it is the same
    (old / RUN).write_text(json.dumps(edited(content, path, value)), "utf-8")
    with pytest.raises(RunError, match=f"{named}.*compare them apart"):
        compare_runs([OLD, old])


def test_runs_of_one_model_that_was_moved_are_joined(old):
    content = json.loads((OLD / RUN).read_text("utf-8"))
    (old / RUN).write_text(json.dumps(edited(content, *IDENTITY[0][:2])), "utf-8")
    assert len(compare_runs([OLD, old]).models) == 1
