"""Shards: every question in one part, and the parts joined are the run that one process makes; what does not fit is named."""

import dataclasses
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from statistics import median

import pytest
from executors import InProcess, Watched
from moments import PATIENCE
from run_schemas import keeps_its_schemas

from itrex_chat import merge as merging_verb
from itrex_chat.comparison import compare_runs
from itrex_chat.foundation import machine
from itrex_chat.foundation.errors import RecipeError, RunError
from itrex_chat.quality import measuring
from itrex_chat.report.sentences import remarks
from itrex_chat.runs.asking import ask
from itrex_chat.runs.merging import merge
from itrex_chat.runs.record import ANSWERS, RUN, RunRecord
from itrex_chat.settings import recipe as recipes
from itrex_chat.settings.questions import Question, QuestionSet
from itrex_chat.settings.shard import Shard

SET = QuestionSet("seven", "en", tuple(Question(f"q{number}", f"{number} + 1 = ?") for number in range(7)))
COUNT = 5


@pytest.fixture(scope="module")
def recipe_list(models):
    return [recipes.load(str(models(family)), ["generation.max_new_tokens", "4"]) for family in ("qwen2", "llama")]


@pytest.fixture(scope="module")
def runs(recipe_list, tmp_path_factory):
    """A folder with a whole run of 2 models, 2 variants and 7 questions, and with its shards."""
    folder, before = tmp_path_factory.mktemp("runs"), os.environ.copy()
    os.environ |= {"ITREX_CHAT_CACHE": str(folder / "cache"), "ITREX_CHAT_LANG": "en"}
    try:
        parts = [None, *(Shard(number, COUNT) for number in range(1, COUNT + 1))]
        for part in parts:
            name = f"{part.number}-of-{COUNT}" if part else "whole"
            shard_option = ["--shard", str(part)] if part else []
            command = " ".join(["python -m itrex_chat.ask --model a b", *shard_option, "--out", name])
            ask(recipe_list, ["fp32", "int4"], SET, folder / name, command, executor=InProcess(), shard=part)
    finally:
        os.environ.clear()
        os.environ |= before
    return folder


@pytest.fixture
def parts(runs, tmp_path):
    """Copies of the shards, to be spoiled."""
    return [
        Path(shutil.copytree(runs / f"{number}-of-{COUNT}", tmp_path / f"{number}-of-{COUNT}"))
        for number in range(1, COUNT + 1)
    ]


def said(record: RunRecord) -> list[tuple]:
    return [
        (each.model, each.variant, each.id, each.token_ids, each.prompt_token_ids, each.text) for each in record.answers
    ]


def change(folder: Path, edit) -> None:
    content = json.loads((folder / RUN).read_text("utf-8"))
    edit(content)
    (folder / RUN).write_text(json.dumps(content), "utf-8")


@pytest.mark.parametrize("count", [1, 2, 3, 8, 13, 40, 1000])
def test_every_question_of_every_model_is_in_one_shard_and_in_order(count):
    sizes = [7, 1, 12, 5]
    found: list[list[int]] = [[] for _size in sizes]
    for number in range(1, count + 1):
        for index, size in enumerate(sizes):
            part = Shard(number, count).of_model(index, len(sizes), range(size))
            assert not part or Shard(number, count).has_model(index, len(sizes))
            found[index] += part
    assert found == [list(range(size)) for size in sizes]


def test_few_models_are_in_a_shard_and_the_shards_are_alike():
    row = [Shard(number, 8) for number in range(1, 9)]
    assert max(sum(shard.has_model(index, 20) for index in range(20)) for shard in row) == 3
    sizes = [sum(len(shard.of_model(index, 20, range(1000))) for index in range(20)) for shard in row]
    assert sizes == [2500] * 8


@pytest.mark.parametrize("text", ["", "2", "0/8", "9/8", "a/b", "1/0", "-1/8", "1/8/2", "²/8", "1/9999999"])
def test_what_is_no_shard_is_named(text):
    with pytest.raises(RecipeError, match="such as 2/8"):
        Shard.parse(text)


def test_shards_merged_are_the_run_that_one_process_makes(runs, parts, tmp_path):
    merged, whole = merge(reversed(parts), tmp_path / "merged"), RunRecord.read(runs / "whole")
    found = RunRecord.read(tmp_path / "merged")
    keeps_its_schemas(tmp_path / "merged")
    assert said(found) == said(merged) == said(whole) and len(found.answers) == 28
    assert found.content.complete and found.content.digest == whole.content.digest == whole.content.spec.digest
    assert found.content.commands == ["python -m itrex_chat.ask --model a b"]
    for label, facts in whole.content.models.items():
        other = found.content.models[label]
        assert (other.questions, other.languages, other.needs) == (facts.questions, facts.languages, facts.needs)
        assert list(other.variants) == list(facts.variants)
        assert all(each.state == "done" and each.load for each in other.variants.values())
    assert found.content.machines is None  # all were made here


def test_merging_again_changes_nothing_and_the_whole_run_goes_on_there(recipe_list, parts, tmp_path):
    out = tmp_path / "merged"
    merge(parts, out)
    before = {file: file.read_bytes() for file in (out / RUN, out / ANSWERS)}
    merge([*parts, parts[2]], out)
    assert {file: file.read_bytes() for file in before} == before
    assert len(ask(recipe_list, ["fp32", "int4"], SET, out, executor=InProcess()).answers) == 28
    assert (out / ANSWERS).read_bytes() == before[out / ANSWERS]


def test_a_missing_shard_is_named_with_its_command_and_nothing_is_written(parts, tmp_path):
    with pytest.raises(RunError) as raised:
        merge([*parts[:2], *parts[3:]], tmp_path / "merged")
    command = f"python -m itrex_chat.ask --model a b --shard 3/5 --out {tmp_path / '3-of-5'}"
    assert f"shard 3/5 is missing ({command})" in str(raised.value)
    with pytest.raises(RunError, match=r"2/5 is missing .* and 1 more"):
        merge([parts[0]], tmp_path / "merged")
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([*(part.name for part in parts)])


def test_a_shard_that_was_interrupted_is_named_with_its_command(parts, tmp_path):
    lines = (parts[4] / ANSWERS).read_text("utf-8").splitlines(keepends=True)
    (parts[4] / ANSWERS).write_text("".join(lines[:-1]), "utf-8")
    with pytest.raises(RunError) as raised:
        merge(parts, tmp_path / "merged")
    assert "shard 5/5 has not answered all with llama-tiny INT4 (" in str(raised.value)
    assert f"--shard 5/5 --out {parts[4]})" in str(raised.value)
    assert not (tmp_path / "merged").exists()


def test_a_shard_that_never_came_to_a_model_is_not_whole(parts, tmp_path):
    change(parts[4], lambda content: content.update(models={}, complete=False))
    (parts[4] / ANSWERS).unlink()
    with pytest.raises(RunError, match="shard 5/5 has not answered all with llama-tiny"):
        merge(parts, tmp_path / "merged")


def test_a_shard_asked_twice_counts_once_and_must_say_the_same(parts, tmp_path):
    again = Path(shutil.copytree(parts[1], tmp_path / "again"))
    assert len(merge([*parts, again], tmp_path / "merged").answers) == 28
    lines = [json.loads(line) for line in (again / ANSWERS).read_text("utf-8").splitlines()]
    lines[0]["token_ids"] = [1, 2, 3]
    (again / ANSWERS).write_text("".join(json.dumps(line) + "\n" for line in lines), "utf-8")
    with pytest.raises(RunError, match=f"different answers of qwen2-tiny FP32 to {lines[0]['id']}"):
        merge([*parts, again], tmp_path / "other")
    assert not (tmp_path / "other").exists()


def test_shards_of_other_runs_other_divisions_and_other_weights_are_named(recipe_list, runs, parts, tmp_path):
    other = ask(recipe_list, ["int4"], SET, tmp_path / "other", executor=InProcess(), shard=Shard(5, COUNT))
    with pytest.raises(RunError, match="parts of different runs"):
        merge([*parts[:4], other.folder], tmp_path / "merged")
    change(parts[2], lambda content: content["spec"].update(shard="3/9"))
    with pytest.raises(RunError, match="one of 5 parts, and .* one of 9"):
        merge(parts, tmp_path / "merged")
    change(parts[2], lambda content: content["spec"].update(shard="3/5"))
    artifacts = "folder", "qwen2-tiny-int4_fullrange-g32-0123456789ab"
    change(parts[1], lambda content: content["models"]["qwen2-tiny"]["artifacts"]["int4"].update([artifacts]))
    with pytest.raises(RunError, match=r"another model of that name \(int4 .*/0123456789ab"):
        merge(parts, tmp_path / "merged")
    with pytest.raises(RunError, match="is a whole run and no shard"):
        merge([runs / "whole"], tmp_path / "merged")
    assert not (tmp_path / "merged").exists()


def test_a_record_that_is_damaged_is_a_sentence(parts, tmp_path):
    change(parts[1], lambda content: content.update(commands=["python 'ask"]))
    with pytest.raises(RunError, match="the record of the run is damaged"):
        merge([parts[1]], tmp_path / "merged")
    change(parts[2], lambda content: content["spec"].update(shard="many"))
    with pytest.raises(RecipeError, match="is no shard"):
        merge(parts, tmp_path / "merged")


def test_a_folder_with_something_else_is_left_alone(runs, parts, tmp_path):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "letter.txt").write_text("dear", "utf-8")
    with pytest.raises(RunError, match="is not empty and holds no run"):
        merge(parts, tmp_path / "full")
    other = Path(shutil.copytree(runs / "whole", tmp_path / "run"))
    change(other, lambda content: content["spec"].update(own_template=True))
    with pytest.raises(RunError, match="holds another run than these shards make"):
        merge(parts, other)


def test_a_variant_that_all_shards_skipped_is_skipped_and_one_that_some_skipped_is_missing(parts, tmp_path):
    def skip(content):
        for facts in content["models"].values():
            facts["variants"]["fp32"] = {"state": "skipped", "reason": "too large"}

    def without_fp32(folder):
        lines = (folder / ANSWERS).read_text("utf-8").splitlines(keepends=True)
        (folder / ANSWERS).write_text("".join(line for line in lines if '"fp32"' not in line), "utf-8")
        change(folder, skip)

    without_fp32(parts[0])
    with pytest.raises(RunError, match="shard 1/5 has not answered all with qwen2-tiny FP32"):
        merge(parts, tmp_path / "merged")
    for part in parts[1:]:
        without_fp32(part)
    merged = merge(parts, tmp_path / "merged")
    assert {facts.variants["fp32"].state for facts in merged.content.models.values()} == {"skipped"}
    assert len(merged.answers) == 14 and merged.content.complete


def test_answers_of_several_machines_say_which_and_no_ratio_mixes_them(parts, tmp_path):
    def elsewhere(content):
        content["machine"] |= {"name": "other", "cpu": "Another CPU"}

    change(parts[0], elsewhere)
    merged = merge(parts, tmp_path / "merged")
    [(name, described)] = merged.content.machines.items()
    assert name == machine.called(described) and merged.content.machine["cpu"] == "Another CPU"
    made = {answer.id: answer.machine for answer in merged.answers if answer.model == "qwen2-tiny"}
    assert set(made.values()) == {None, name}
    [first, second] = compare_runs([tmp_path / "merged"]).models
    assert second.figures[0].machine is None  # all answers of this model are of one machine
    assert {figures.machine for figures in first.figures} == {name}  # that gave most of the answers
    times = [
        each.ttft for each in merged.answers if each.variant == "int4" and each.machine and each.model == "qwen2-tiny"
    ]
    assert first.figures[1].ttft == median(times) and first.figures[1].timed == len(times) < 7
    assert first.ratio(first.figures[1], "ttft") and first.ratio(first.figures[1], "peak_memory") is None
    assert f"the times are of the {len(times)} of 7 that {name} (" in remarks(first)[0]


def test_times_of_two_machines_are_not_divided(parts, tmp_path):
    merged = merge(parts, tmp_path / "merged")
    other = dict(merged.content.machine, name="other", cpu="Another CPU")
    merged.content.machines = {"other 1": other}
    merged.write(
        [dataclasses.replace(each, machine="other 1" if each.variant == "int4" else None) for each in merged.answers]
    )
    comparison = compare_runs([tmp_path / "merged"])
    for model in comparison.models:
        assert model.figures[1].tokens_per_second and model.ratio(model.figures[1], "tokens_per_second") is None
        assert model.ratio(model.figures[1], "peak_memory") is None and model.ratio(model.figures[1], "disk_bytes")
    assert "INT4 was timed on other 1 (Another CPU) and FP32 on" in remarks(comparison.models[0])[0]


def test_processes_that_are_told_their_shard_make_the_run(models, home, tmp_path):
    asked = tmp_path / "three.yaml"
    asked.write_text(
        "questions:\n  - {id: a, text: 你好}\n  - {id: b, text: 'What?'}\n  - {id: c, text: 1+1}\n", "utf-8"
    )
    options = ["--model", str(models("qwen2")), "--variants", "int4", "--prompts", str(asked), "--max-new-tokens", "4"]

    def started(*more: str) -> subprocess.Popen:
        command = [sys.executable, "-m", "itrex_chat.ask", *options, *more]
        return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)

    whole = started("--out", str(tmp_path / "whole"))
    assert whole.communicate(timeout=PATIENCE) and whole.returncode == 0
    shards = [started("--shard", f"{number}/2", "--out", str(tmp_path / f"part{number}")) for number in range(1, 3)]
    for process in shards:
        error = process.communicate(timeout=PATIENCE)[1]
        assert process.returncode == 0, error
    assert merging_verb.main([*(str(tmp_path / f"part{n}") for n in range(1, 3)), "--out", str(tmp_path / "run")]) == 0
    assert said(RunRecord.read(tmp_path / "run")) == said(RunRecord.read(tmp_path / "whole"))


def test_a_run_that_goes_on_where_another_machine_began_it_says_so(recipe_list, parts, tmp_path):
    def elsewhere(content):
        content["machine"] |= {"name": "other"}

    lines = (parts[4] / ANSWERS).read_text("utf-8").splitlines(keepends=True)
    (parts[4] / ANSWERS).write_text("".join(lines[:-1]), "utf-8")
    change(parts[4], elsewhere)
    record = ask(recipe_list, ["fp32", "int4"], SET, parts[4], executor=InProcess(), shard=Shard(5, COUNT))
    [name] = record.content.machines
    assert [answer.machine for answer in record.answers] == [None] * (len(lines) - 1) + [name]
    assert dataclasses.replace(record.answers[-1], machine=None).as_dict().keys() == json.loads(lines[-1]).keys()


def test_parts_of_a_measurement_fill_a_cache_that_the_whole_one_only_puts_together(recipe_list, text):
    [recipe, _other] = recipe_list
    parts = [
        measuring.measure(recipe, "fp32", ["int4"], [], [text], 600, InProcess(), shard=Shard(number, 2))
        for number in (1, 2)
    ]
    assert [len(part.passages) for part in parts] == [1, 1]
    executor = Watched()
    whole = measuring.measure(recipe, "fp32", ["int4"], [], [text], 600, executor)
    assert executor.done() == [("plan_scoring", None)]
    assert whole.variants[0].corpora[0].positions == 598 == sum(part.variants[0].corpora[0].positions for part in parts)
