"""Asking: every variant in a process of its own, answers kept at once, interrupted runs continued, nothing that does not
fit loaded."""

import dataclasses
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from executors import InProcess
from moments import PATIENCE, random_moments, until
from run_schemas import keeps_its_schemas

from itrex_chat import ask as asking
from itrex_chat.artifacts.cached import cached_models
from itrex_chat.foundation import machine
from itrex_chat.foundation.errors import RunError
from itrex_chat.jobs import executor, protocol
from itrex_chat.jobs.job import Ask
from itrex_chat.kernels import choose, described
from itrex_chat.runs.asking import ask, labels
from itrex_chat.runs.record import ANSWERS, RUN, RunRecord
from itrex_chat.settings import questions
from itrex_chat.settings import recipe as recipes
from itrex_chat.settings.generation import GenerationConfig

FIELDS = {
    "id",
    "model",
    "variant",
    "text",
    "token_ids",
    "prompt_token_ids",
    "finish_reason",
    "prompt_tokens",
    "new_tokens",
    "ttft",
    "tpot",
    "tokens_per_second",
    "prefill_tokens_per_second",
    "seconds",
}


@pytest.fixture
def asked(tmp_path):
    """Three short questions in a file."""
    file = tmp_path / "three.yaml"
    file.write_text(
        "questions:\n  - {id: a, text: 你好}\n  - {id: b, text: 'What is it?'}\n  - {id: c, text: '1 + 1 = ?'}\n",
        "utf-8",
    )
    return file


def run(model: Path, asked: Path, out: Path, *options: str, **popen) -> subprocess.Popen:
    command = [
        sys.executable,
        "-m",
        "itrex_chat.ask",
        "--model",
        str(model),
        "--prompts",
        str(asked),
        "--max-new-tokens",
        "8",
        "--out",
        str(out),
        *options,
    ]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **popen)


def finished(process: subprocess.Popen) -> tuple[int, str, str]:
    out, error = process.communicate(timeout=PATIENCE)
    return process.returncode, out, error


def answers(out: Path) -> list[dict]:
    """The lines of a finished run."""
    keeps_its_schemas(out)
    return [json.loads(line) for line in (out / ANSWERS).read_text("utf-8").splitlines()]


def test_every_variant_answers_every_question_and_the_run_says_how(models, asked, tmp_path):
    code, out, error = finished(run(models("qwen2"), asked, tmp_path / "run", "--variants", "fp32,bf16,int4,int8"))
    assert code == 0, error
    lines = answers(tmp_path / "run")
    assert [(line["variant"], line["id"]) for line in lines] == [
        (variant, id) for variant in ("fp32", "bf16", "int4", "int8") for id in "abc"
    ]
    assert all(set(line) >= FIELDS for line in lines)
    content = json.loads((tmp_path / "run" / "run.json").read_text("utf-8"))
    assert content["complete"] and content["machine"]["cores"] and content["machine"]["packages"]["torch"]
    for facts in content["models"]["qwen2-tiny"]["variants"].values():
        assert facts["state"] == "done" and facts["peak_memory"] > 1e8
        assert facts["load"]["seconds"] > 0 and facts["load"]["disk_bytes"] > 1e5 and facts["load"]["threads"] >= 1
        assert facts["load"]["kernel"] == described(choose())
    assert "12 answers" in out


def test_a_run_says_that_fp32_is_kept_in_16_bits_or_in_32_if_that_was_asked_for(models, asked, tmp_path):
    lines, loads = {}, {}
    for storage in ("stored", "fp32"):
        out = tmp_path / storage
        code, said, error = finished(
            run(models("qwen"), asked, out, "--variants", "fp32", "--set", "fp32.storage", storage)
        )
        assert code == 0, error
        assert ("FP32, kept in 16 bits (bfloat16)" in said) == (storage == "stored")
        lines[storage] = [line["token_ids"] for line in answers(out)]
        content = json.loads((out / "run.json").read_text("utf-8"))["models"]["qwen-tiny"]
        loads[storage] = content["variants"]["fp32"]["load"]
        assert content["needs"]["fp32"] > 6e8
    stored, wide = loads.values()
    assert lines["stored"] == lines["fp32"]
    assert (stored["storage"], stored["wide_bytes"]) == ("bfloat16", wide["weight_bytes"])
    assert stored["weight_bytes"] * 2 == wide["weight_bytes"] and not wide.keys() & {"storage", "wide_bytes"}
    assert stored["mapped_bytes"] > stored["weight_bytes"] > 0


def test_answers_do_not_depend_on_the_process_they_are_given_in(models, asked, tmp_path):
    from itrex_chat.neuralchat.chatbot import load_chatbot

    code, _out, error = finished(run(models("qwen2"), asked, tmp_path / "run"))
    assert code == 0, error
    recipe = recipes.load(str(models("qwen2")), ["generation.max_new_tokens", "8"])
    for variant in ("fp32", "int4"):
        chatbot = load_chatbot(recipe, variant)
        for line in (line for line in answers(tmp_path / "run") if line["variant"] == variant):
            question = next(q for q in questions.load(str(asked)).questions if q.id == line["id"])
            response = chatbot.chat([{"role": "user", "content": question.text}])
            assert (response.token_ids, response.prompt_token_ids) == (line["token_ids"], line["prompt_token_ids"])


def test_a_finished_run_is_not_asked_again_and_another_one_is_not_overwritten(models, asked, tmp_path):
    out = tmp_path / "run"
    assert finished(run(models("qwen2"), asked, out, "--variants", "fp32"))[0] == 0
    before = (out / ANSWERS).read_bytes()
    assert finished(run(models("qwen2"), asked, out, "--variants", "fp32"))[0] == 0
    assert (out / ANSWERS).read_bytes() == before
    code, _out, error = finished(run(models("qwen2"), asked, out, "--variants", "int4"))
    assert code == 1 and "holds another run" in error and "Traceback" not in error
    assert (out / ANSWERS).read_bytes() == before


def test_a_folder_with_other_things_in_it_is_not_used(models, asked, tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "thesis.txt").write_text("precious", "utf-8")
    code, _out, error = finished(run(models("qwen2"), asked, tmp_path / "run"))
    assert code == 1 and "not empty" in error
    assert [path.name for path in (tmp_path / "run").iterdir() if path.name != ".lock"] == ["thesis.txt"]


def test_an_unfinished_line_is_cut_off_and_its_question_asked_again(models, asked, tmp_path):
    out = tmp_path / "run"
    assert finished(run(models("qwen2"), asked, out, "--variants", "fp32"))[0] == 0
    whole = answers(out)
    content = (out / ANSWERS).read_bytes()
    (out / ANSWERS).write_bytes(content[:-25])
    assert finished(run(models("qwen2"), asked, out, "--variants", "fp32"))[0] == 0
    assert [line["token_ids"] for line in answers(out)] == [line["token_ids"] for line in whole]


def test_runs_killed_at_random_moments_are_continued_to_the_same_answers(models, asked, tmp_path):
    reference = tmp_path / "reference"
    began = time.monotonic()
    assert finished(run(models("qwen2"), asked, reference))[0] == 0
    whole = time.monotonic() - began
    for number, moment in enumerate(random_moments(7, least=2)):
        out = tmp_path / f"run{number}"
        process = run(models("qwen2"), asked, out)
        time.sleep(moment * whole)
        process.kill()
        process.communicate()
        code, _out, error = finished(run(models("qwen2"), asked, out))
        assert code == 0, error
        assert [(line["variant"], line["id"], line["token_ids"]) for line in answers(out)] == [
            (line["variant"], line["id"], line["token_ids"]) for line in answers(reference)
        ]


def test_an_interrupt_ends_run_and_worker_with_a_sentence(models, asked, tmp_path):
    out = tmp_path / "run"
    process = run(models("qwen2"), asked, out, "--max-new-tokens", "400", start_new_session=True)
    until(lambda: (out / ANSWERS).exists() and "\n" in (out / ANSWERS).read_text("utf-8"), process)
    os.killpg(process.pid, signal.SIGINT)
    code, _out, error = finished(process)
    assert code == 130 and "interrupted" in error and "Traceback" not in error


def test_a_worker_ends_when_nobody_listens_any_more(models):
    job = Ask(
        recipe=recipes.load(str(models("qwen2"))),
        label="qwen2-tiny",
        variant="fp32",
        questions=tuple(questions.Question(str(number), "x") for number in range(1000)),
        generation=GenerationConfig(max_new_tokens=400),
    )
    worker = subprocess.Popen(
        [sys.executable, "-m", "itrex_chat.worker"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    worker.stdin.write(protocol.as_line(job) + "\n")
    worker.stdin.flush()
    worker.stdout.readline()
    worker.stdin.close()
    assert worker.wait(timeout=PATIENCE) != 0


def test_two_runs_into_one_folder_do_not_mix(models, asked, tmp_path):
    out = tmp_path / "run"
    first = run(models("qwen2"), asked, out, "--max-new-tokens", "400")
    until((out / RUN).exists, first)
    first.send_signal(signal.SIGSTOP)  # so that it still runs when the second one comes
    code, _out, error = finished(run(models("qwen2"), asked, out, "--max-new-tokens", "400"))
    first.send_signal(signal.SIGCONT)
    assert code == 1 and "Another process" in error
    assert finished(first)[0] == 0
    assert len(answers(tmp_path / "run")) == 6


def test_a_variant_that_does_not_fit_is_skipped_with_the_numbers_and_what_would_fit(
    models, asked, tmp_path, monkeypatch
):
    large = InProcess({"fp32": 25_000_000_000, "bf16": 13_000_000_000, "int4": 900_000_000})
    monkeypatch.setattr(machine, "available_memory", lambda: 20_000_000_000)
    polite = dataclasses.replace(questions.load(str(asked)), system="Be polite.")
    record = ask([recipes.load(str(models("qwen2")))], None, polite, tmp_path / "run", executor=large)
    assert record.content.models["qwen2-tiny"].system == "Be polite."
    facts = record.content.models["qwen2-tiny"].variants
    assert facts["fp32"].state == "skipped" and facts["int4"].state == "done"
    assert "needs 25.00 GB" in facts["fp32"].reason and "20.00 GB is left" in facts["fp32"].reason
    assert "BF16 (13.00 GB), INT4 (900 MB)" in facts["fp32"].reason


def test_a_variant_that_fails_does_not_keep_the_others_from_answering(models, asked, tmp_path):
    import shutil

    folder = Path(shutil.copytree(models("qwen2"), tmp_path / "model"))
    from itrex_chat.artifacts import obtain

    obtain(recipes.load(str(folder)))
    shutil.rmtree(folder)
    code, _out, error = finished(
        subprocess.Popen(
            [
                sys.executable,
                "-m",
                "itrex_chat.ask",
                "--prompts",
                str(asked),
                "--max-new-tokens",
                "4",
                "--out",
                str(tmp_path / "run"),
            ],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
    )
    assert code == 1 and "FP32" in error and "not there any more" in error and "Traceback" not in error
    assert {line["variant"] for line in answers(tmp_path / "run")} == {"int4"}


def test_a_worker_that_dies_is_one_sentence():
    with pytest.raises(RunError, match="killed, probably because the memory ran out"):
        raise RunError(executor._death(-9))
    with pytest.raises(RunError, match="ITREX_CHAT_KERNEL=reference"):
        raise RunError(executor._death(-4))


def test_without_a_model_every_cached_one_is_asked(models, asked, tmp_path):
    from itrex_chat.artifacts import obtain

    for family in ("qwen2", "llama"):
        obtain(recipes.load(str(models(family))))
    obtain(recipes.load(str(models("llama")), ["quantization.group_size", "64"]))
    found = cached_models(["generation.max_new_tokens", "5"])
    assert sorted(label for label, _recipe in labels(found)) == [
        "llama-tiny int4_fullrange g32 head int8",
        "llama-tiny int4_fullrange g64 head int8",
        "qwen2-tiny",
    ]
    assert all(recipe.generation.max_new_tokens == 5 for recipe in found)


def test_without_anything_cached_the_embedded_model_is_asked():
    assert [recipe.name for recipe in cached_models([])] == [recipes.EMBEDDED]


@pytest.mark.parametrize(
    "options, sentence",
    [
        (["--variants", "int5"], "Did you mean int"),
        (["--variants", ","], "names no variant"),
        (["--model", "nowhere"], "no model"),
        (["--prompts", "nowhere"], "no question set"),
        (["--set", "generation.top_p", "7"], "top_p"),
    ],
)
def test_options_that_cannot_be_meant_are_named_before_anything_starts(options, sentence, home, capsys):
    assert asking.main(options) == 1
    assert sentence in capsys.readouterr().err
    assert not (home / "runs").exists()


def test_a_damaged_record_is_named(models, asked, tmp_path):
    record = ask(
        [recipes.load(str(models("qwen2")), ["generation.max_new_tokens", "2"])],
        ["fp32"],
        questions.load(str(asked)),
        tmp_path / "run",
    )
    lines = (record.folder / ANSWERS).read_text("utf-8").splitlines()
    (record.folder / ANSWERS).write_text("\n".join([lines[0], "{broken", lines[2]]) + "\n", "utf-8")
    with pytest.raises(RunError, match="line 2 is not an answer"):
        RunRecord.read(record.folder)
    (record.folder / "run.json").write_text("{}", "utf-8")
    with pytest.raises(RunError, match="run.json is damaged"):
        RunRecord.read(record.folder)
