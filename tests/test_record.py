"""A run's record: what the version before wrote goes on, what is not a record is named, and the files keep their schemas."""

import dataclasses
import json
import shutil
from pathlib import Path

import pytest
from run_schemas import keeps_its_schemas, schema

from itrex_chat.comparison import compare_runs
from itrex_chat.foundation.errors import RunError
from itrex_chat.jobs.answer import Answer
from itrex_chat.runs import schemas
from itrex_chat.runs.content import Run, Spec
from itrex_chat.runs.record import ANSWERS, RUN, RunRecord, answers_of, folder_of, latest, place, variants_of

OLD = Path(__file__).with_name("old_run")  # interrupted in its fourth answer; written by the version before
MODEL = "qwen2-tiny"
ANSWER = Answer("b", MODEL, "int4", "好", [5], [1, 2], "stop", 2, 1, 0.1, None, None, 20.0, 0.2)


@pytest.fixture
def old(tmp_path) -> Path:
    return Path(shutil.copytree(OLD, tmp_path / "run"))


def content(run: Path) -> dict:
    return json.loads((run / RUN).read_text("utf-8"))


def edited(run: Path, path: str, value) -> None:
    """Set a value somewhere in `run.json`; `path` has dots between the keys."""
    whole = part = content(run)
    *keys, last = path.split(".")
    for key in keys:
        part = part[int(key) if isinstance(part, list) else key]
    part[last] = value
    (run / RUN).write_text(json.dumps(whole), "utf-8")


def test_a_run_of_the_version_before_is_written_as_it_was_read(old):
    before = content(old)
    record = RunRecord.read(old)
    record.save()
    assert content(old) == before and record.content.models[MODEL].system is None
    assert record.answered(MODEL, "fp32") == {"a", "b"} and record.answered(MODEL, "int4") == {"a"}


def test_a_spec_has_the_digest_of_the_version_before(old):
    before = content(old)
    assert Spec.of(before["spec"]).digest == RunRecord.read(old).content.spec.digest == before["digest"]


def test_an_interrupted_run_of_the_version_before_goes_on(home):
    run = home / "runs" / "20250101-000000"
    shutil.copytree(OLD, run)
    spec = content(run)["spec"]
    assert place(home / "runs", spec) == run
    record = RunRecord.start(run, spec)
    record.append(ANSWER)
    record.note(MODEL, "int4", state="done", peak_memory=9)
    record.close()
    lines = [json.loads(line) for line in (run / ANSWERS).read_text("utf-8").splitlines()]
    assert len(lines) == 4 and lines[3] == ANSWER.as_dict() and set(lines[3]) >= set(lines[0])
    found = RunRecord.read(run)
    assert found.answers[3] == ANSWER and found.content.models[MODEL].variants["int4"].peak_memory == 9
    assert found.content.models[MODEL].variants["int4"].load.threads == 2


def test_another_spec_is_another_run(old):
    spec = content(old)["spec"] | {"variants": ["int8"]}
    with pytest.raises(RunError, match="holds another run"):
        RunRecord.start(old, spec)
    assert place(old.parent, spec) != old
    RunRecord.start(old, content(old)["spec"]).close()  # the refusal has left no lock


def test_what_a_later_version_writes_besides_is_kept(old):
    model, variant = f"models.{MODEL}", f"models.{MODEL}.variants.fp32"
    places = ["later", "spec.later", f"{model}.later", f"{model}.generation.later", f"{model}.questions.0.later"]
    for path in [*places, f"{variant}.later", f"{variant}.load.later", f"{model}.artifacts.int4.statistics.later"]:
        edited(old, path, {"a": [None, 1]})
    before = content(old)
    record = RunRecord.read(old)
    record.model(MODEL).update({"languages": ["en"]})
    record.note(MODEL, "fp32", reason="why not")
    before["models"][MODEL]["languages"] = ["en"]
    before["models"][MODEL]["variants"]["fp32"]["reason"] = "why not"
    assert content(old) == before


@pytest.mark.parametrize(
    "path, value",
    [
        ("models", []),
        ("spec", None),
        ("spec.models.0.recipe", "qwen"),
        ("complete", "yes"),
        ("commands", {}),
        (f"models.{MODEL}", "gone"),
        (f"models.{MODEL}.questions", {}),
        (f"models.{MODEL}.questions.0.text", 5),
        (f"models.{MODEL}.generation.max_new_tokens", "many"),
        (f"models.{MODEL}.variants.fp32.load", [1]),
        (f"models.{MODEL}.variants.fp32.load.seconds", "2"),
        (f"models.{MODEL}.variants.fp32.peak_memory", 0.5),
        (f"models.{MODEL}.artifacts.int4.statistics.weights", None),
    ],
)
def test_a_record_that_was_edited_to_other_types_is_named_as_damaged(old, path, value):
    edited(old, path, value)
    with pytest.raises(RunError, match="run.json is damaged"):
        RunRecord.read(old)


@pytest.mark.parametrize("path", ["generation", "question_set", "questions"])
def test_a_record_that_lacks_a_part_is_compared_or_named_but_never_a_crash(old, path):
    whole = content(old)
    del whole["models"][MODEL][path]
    (old / RUN).write_text(json.dumps(whole), "utf-8")
    try:
        assert compare_runs([old]).models[0].baseline == "fp32"
    except RunError as error:
        assert path == "generation" and "the record of the run is damaged" in str(error)


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"format": 1}', "[" * 100_000, "\x00"])
def test_what_is_no_record_is_named_as_damaged(old, text):
    (old / RUN).write_text(text, "utf-8")
    with pytest.raises(RunError, match="run.json is damaged"):
        RunRecord.read(old)


def test_a_record_of_another_format_and_a_folder_without_one_are_told_apart(old, tmp_path):
    edited(old, "format", 2)
    with pytest.raises(RunError, match="another version of this program"):
        RunRecord.read(old)
    with pytest.raises(RunError, match="holds no run: run.json cannot be read"):
        RunRecord.read(tmp_path)


def test_answers_of_older_versions_are_read_whatever_the_order_of_their_keys(old):
    values = {
        name: value
        for name, value in reversed(dataclasses.asdict(ANSWER).items())
        if name not in ("drafted_tokens", "accepted_tokens")
    }
    (old / ANSWERS).write_text(json.dumps(values | {"text": "a\ud800", "more": 1}) + "\n", "utf-8")
    [answer] = RunRecord.read(old).answers
    assert answer == dataclasses.replace(ANSWER, text="a?") and answer.drafted_tokens == answer.accepted_tokens == 0


@pytest.mark.parametrize("values", [{"token_ids": "abc"}, {"ttft": "soon"}, {"text": None}, {"id": 5}, {"tpot": []}])
def test_an_answer_that_was_edited_to_other_types_is_named_by_its_line(old, values):
    line = json.dumps(dataclasses.asdict(ANSWER) | values)
    (old / ANSWERS).write_text(json.dumps(dataclasses.asdict(ANSWER)) + f"\n{line}\n", "utf-8")
    with pytest.raises(RunError, match="line 2 is not an answer"):
        RunRecord.read(old)


def test_the_variants_of_a_spec_are_those_of_its_recipes_for_each_engine(old):
    spec = content(old)["spec"]
    recipe = spec["models"][0]["recipe"]
    assert variants_of(spec, recipe) == ["fp32", "int4"]
    assert variants_of(spec | {"engines": ["itrex"], "variants": ["int4"]}, recipe) == ["itrex-int4"]


def test_a_run_is_named_by_its_folder_or_its_answers_and_the_newest_with_answers_is_found(home):
    with pytest.raises(RunError, match="itrex_chat.ask"):
        latest()
    for name in ("1", "2", "3"):
        shutil.copytree(OLD, home / "runs" / name)
    (home / "runs" / "3" / ANSWERS).write_text("", "utf-8")
    assert latest() == folder_of(latest() / ANSWERS) == folder_of(latest()) == home / "runs" / "2"
    assert [answer.id for answer in answers_of(latest(), "fp32")] == ["a", "b"]
    with pytest.raises(RunError, match="no answers of BF16"):
        answers_of(latest(), "bf16")


def test_the_schemas_are_those_of_the_types():
    for name in schemas.KINDS:
        assert schema(name.partition(".")[0]) == schemas.schema(name), "python -m itrex_chat.runs.schemas writes them"


def test_a_record_keeps_its_schemas(old):
    record = RunRecord.go_on(old)
    record.append(ANSWER)
    record.close()
    keeps_its_schemas(old)
    assert schema("run")["properties"]["format"]["const"] == Run.of(content(old)).format


def test_a_folder_whose_name_no_json_can_hold_is_kept_with_a_question_mark(tmp_path):
    record = RunRecord.start(tmp_path, {"models": [], "variants": None, "questions": None})
    built = {
        "folder": "/\udcff/m-int4-0123",
        "bytes": 1,
        "statistics": {"weights": 1, "bytes_after": 1, "seconds": 1.0},
    }
    record.model("m").update({"artifacts": {"int4": built}})
    record.save()
    record.close()
    assert RunRecord.read(tmp_path).model("m").artifacts["int4"].folder == "/?/m-int4-0123"
