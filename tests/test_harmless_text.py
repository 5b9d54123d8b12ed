"""Text that is not ours, as every verb shows it: it steers no terminal and adds nothing to a report in Markdown."""

import argparse
import dataclasses
import json
import logging

import pytest
from test_compare import answer, record

from itrex_chat import cache, compare, doctor, online, quantize, sheet
from itrex_chat.endpoints.endpoint import Completion, Endpoint
from itrex_chat.engines.finding import BAD, Finding
from itrex_chat.foundation import command_line, progress
from itrex_chat.foundation.errors import RunError
from itrex_chat.foundation.harmless import for_markdown, for_markdown_line, tell
from itrex_chat.jobs.answer import Answer
from itrex_chat.jobs.event import Facts
from itrex_chat.runs.display import Display
from itrex_chat.settings.questions import Question

ESC = "\x1b]0;owned\x07\x1b[2J\x9b31m\u202e"
HTML = "<img src=x onerror=alert(1)>\n\n# heading | cell"
HOSTILE = f"name{ESC}{HTML}"
STEERING = ("\x1b", "\x07", "\x9b", "\u202e")


def harmless(text: str) -> bool:
    return not any(character in text for character in STEERING)


@pytest.fixture
def run(tmp_path):
    """A run in which every name and every text is hostile."""
    folder = record(
        tmp_path / "run",
        [answer(v, id, f"{v} says {HOSTILE}", [1, ord(v[0])]) for v in ("fp32", "int4") for id in "ab"],
    ).folder
    path = folder / "run.json"
    content = json.loads(path.read_text("utf-8"))
    model = content["models"].pop("m")
    for question in model["questions"]:
        question |= {"id": question["id"] + HOSTILE, "category": HOSTILE, "expected": HOSTILE}
    for facts in model["variants"].values():
        facts["load"] |= {"stored": HOSTILE, "origin": {"kind": "hub", "repository": HOSTILE}}
    model["variants"]["bf16"] = {"state": "failed", "reason": HOSTILE}
    content["models"][HOSTILE] = model
    content["machine"] |= {"cpu": HOSTILE, "itrex_chat": HOSTILE, "packages": {"torch": HOSTILE}}
    content["commands"] = [f"echo {HOSTILE}"]
    path.write_text(json.dumps(content), "utf-8")
    lines = [json.loads(line) for line in (folder / "answers.jsonl").read_text("utf-8").splitlines()]
    for line in lines:
        line |= {"model": HOSTILE, "id": line["id"] + HOSTILE}
    (folder / "answers.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines), "utf-8")
    return folder


# Verbs


def test_a_comparison_steers_no_terminal(run, capsys):
    assert compare.main([str(run), "--fail-if", "chrf<101"]) != 0
    said = capsys.readouterr()
    assert "name" in said.out and "name" in said.err and harmless(said.out + said.err)


def test_questions_that_an_online_model_answers_steer_no_terminal(run, capsys, monkeypatch):
    monkeypatch.setattr(Endpoint, "complete", lambda *_arguments: Completion(HOSTILE, "stop", 1, 1, 0.1))
    assert online.main([str(run), "--model", HOSTILE, "--endpoint", "http://127.0.0.1:9/v1"]) == 0
    said = capsys.readouterr()
    assert said.out.count("name") >= 3 and harmless(said.out + said.err)
    assert online.main([str(run), "--model", f"other{HOSTILE}", "--endpoint", "http://127.0.0.1:9/v1"]) == 1
    assert "answers of name" in (error := capsys.readouterr().err) and harmless(error)


def test_a_sheet_of_a_run_with_a_hostile_folder_steers_no_terminal(run, tmp_path, capsys):
    folder = run.rename(run.with_name("run\x1b[31m"))
    assert sheet.main(["make", str(tmp_path / "sheet\x1b.csv"), "--run", str(folder)]) == 0
    assert "run[31m" in (out := capsys.readouterr().out) and harmless(out)


def test_what_is_shown_while_questions_are_asked_steers_no_terminal(capsys):
    display, question = Display(), Question(f"id{HOSTILE}", HOSTILE)
    display.model(HOSTILE, HOSTILE, 1)
    display.loaded(HOSTILE, "int4", Facts(**facts(Facts, kernel=HOSTILE, why=HOSTILE, seconds=1.0, memory=1)))
    display.answer(question, 1, 1, Answer(**answer("int4", "a", HOSTILE, [1], finish_reason=HOSTILE)))
    display.notice(HOSTILE)
    said = capsys.readouterr()
    assert said.out.count("name") >= 6 and "name" in said.err and harmless(said.out + said.err)


def facts(kind: type, **given) -> dict:
    """Values for all fields of a dataclass, those that are given and zeros."""
    needed = [f.name for f in dataclasses.fields(kind) if f.default is dataclasses.MISSING]
    return dict.fromkeys(needed, 0) | given


def test_names_in_the_cache_steer_no_terminal(home, capsys):
    (home / "artifacts" / "model\x1b[31m-int4-0123").mkdir(parents=True)
    (home / "artifacts" / "model\x1b[31m-int4-0123" / "manifest.json").write_text("{", "utf-8")
    for arguments in ([], ["verify"], ["show", "model\x1b[31m"], ["remove", "nobody\x1b[31m"]):
        cache.main(arguments)
        said = capsys.readouterr()
        assert "[31m" in said.out + said.err and harmless(said.out + said.err)


def test_what_the_doctor_finds_steers_no_terminal(capsys, monkeypatch):
    monkeypatch.setattr(doctor, "examine", lambda engine: [Finding(BAD, HOSTILE, HOSTILE)])
    doctor.main([])
    assert "name" in (out := capsys.readouterr().out) and harmless(out)


def test_what_came_of_a_quantization_steers_no_terminal(tmp_path, capsys, monkeypatch):
    (tmp_path / "model").mkdir()
    monkeypatch.setattr(quantize, "quantize", lambda *_arguments: HOSTILE)
    assert quantize.main(["--model", str(tmp_path / "model")]) == 0
    assert "name" in (out := capsys.readouterr().out) and harmless(out)


# Errors


def test_an_error_steers_no_terminal(capsys):
    def command(arguments: argparse.Namespace) -> None:
        raise RunError(HOSTILE)

    assert command_line.run(command, command_line.parser("ask", ""), []) == 1
    assert "name" in (error := capsys.readouterr().err) and harmless(error)


@pytest.mark.parametrize("field", ["name", "family"])
def test_a_recipe_that_cannot_be_meant_steers_no_terminal(tmp_path, capsys, field):
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(json.dumps({field: HOSTILE, "source": {"hub": HOSTILE}}), "utf-8")
    assert quantize.main(["--model", str(recipe)]) == 1
    assert harmless(capsys.readouterr().err)


def test_a_model_of_a_hostile_type_steers_no_terminal(tmp_path, capsys):
    (tmp_path / "config.json").write_text(json.dumps({"model_type": HOSTILE, "architectures": [HOSTILE]}), "utf-8")
    (tmp_path / "model.safetensors").write_bytes(b"\x02" + bytes(7) + b"{}")
    assert quantize.main(["--model", str(tmp_path)]) == 1
    assert "name" in (error := capsys.readouterr().err) and harmless(error)


def test_what_transformers_says_of_a_configuration_is_not_heard(tmp_path, capfd):
    sizes = dict.fromkeys(
        ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "vocab_size"), 2
    )
    for kind in ("llama", "qwen2", "qwen3", "mistral", "glm"):
        config = {"model_type": kind, "rope_scaling": {"rope_type": HOSTILE, HOSTILE: 1}, **sizes}
        (tmp_path / "config.json").write_text(json.dumps(config), "utf-8")
        (tmp_path / "model.safetensors").write_bytes(b"\x02" + bytes(7) + b"{}")
        assert quantize.main(["--model", str(tmp_path)]) == 1
        said = capfd.readouterr()
        assert "[transformers]" not in said.out + said.err and harmless(said.out + said.err)
    assert logging.getLogger("transformers").isEnabledFor(logging.CRITICAL)


def test_a_progress_bar_steers_no_terminal():
    with progress.bar(HOSTILE, 1) as bar:
        assert harmless(bar.desc)


# Ordinary text


def test_ordinary_text_is_printed_as_it_is(capsys):
    tell("你好, Grüße: a/b_c-d.gguf\t😀\nsecond line")
    assert capsys.readouterr().out == "你好, Grüße: a/b_c-d.gguf\t😀\nsecond line\n"


# Markdown


def test_markdown_drops_what_steers_and_keeps_emoji_together():
    assert for_markdown(f"a{ESC}b 👩‍👩‍👧\n\tc") == "a\\]0;owned\\[2J31mb 👩‍👩‍👧\n\tc"
    assert for_markdown_line("a\n# b") == "a \\# b"


def test_a_report_in_markdown_gains_nothing_from_hostile_names(run):
    compare.compare([run])
    text = (run / "comparison.md").read_text("utf-8")
    report, _title, commands = text.partition("## Commands\n")
    assert "name" in report and harmless(text)
    assert "<img" not in report and "\n# heading" not in report
    assert all(not line or line.startswith("    ") for line in commands.splitlines())
    assert all(line.startswith(("|", ">", "▸", "**")) or " | " not in line for line in report.splitlines())


def test_an_error_is_one_line_and_not_endless_whatever_it_quotes():
    told = str(RunError("The file a\r\nitrex_chat: done\x85b\u2028c cannot be read."))
    assert told == "The file a itrex_chat: done b c cannot be read."
    told = str(RunError(f"The file {'x' * 10**6} cannot be read."))
    assert told.startswith("The file xxx") and told.endswith("xxx cannot be read.") and len(told) < 2000
