"""ITREX itself as an engine. Tests that need its environment are skipped, and say so, where there is none."""

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import platformdirs
import pytest
import tiny_models
from safetensors.torch import load_file, save_file

from itrex_chat import MixedPrecisionConfig, PipelineConfig, RtnConfig, build_chatbot, cache, compare, quantize
from itrex_chat import ask as asking
from itrex_chat.engines.itrex import environment, pip
from itrex_chat.engines.itrex.process import Process
from itrex_chat.engines.itrex.saved import obtain
from itrex_chat.foundation.errors import EngineError, ItrexChatError
from itrex_chat.foundation.places import CHECKOUT
from itrex_chat.neuralchat.chatbot import load_chatbot
from itrex_chat.settings import recipe as recipes
from itrex_chat.settings.generation import GenerationConfig

# Where `doctor --install` puts it: the folder that is named, the checkout's cache, or, in CI, the user's cache.
PLACES = [
    os.environ.get("ITREX_CHAT_ENGINES") or CHECKOUT / "cache" / "engines",
    platformdirs.user_cache_path("itrex_chat") / "engines",
]
ENGINES = next((Path(place) for place in PLACES if (Path(place) / "itrex.json").is_file()), Path(PLACES[0]))
SHORT = ["generation.max_new_tokens", "16"]
QUESTION = [{"role": "user", "content": "你好 hello"}]


@pytest.fixture
def itrex(monkeypatch):
    """ITREX's environment, made before by `python -m itrex_chat.doctor --engine itrex --install`."""
    monkeypatch.setenv("ITREX_CHAT_ENGINES", str(ENGINES))
    try:
        return environment.find()
    except EngineError as error:
        pytest.skip(f"ITREX's environment is not at {ENGINES} (ITREX_CHAT_ENGINES): {error}")


@pytest.fixture
def no_itrex(tmp_path, monkeypatch):
    monkeypatch.setenv("ITREX_CHAT_ENGINES", str(tmp_path / "engines"))


def answer(folder, variant, settings=(), config=None):
    recipe = recipes.load(str(folder), [*SHORT, *settings])
    chatbot = load_chatbot(recipe, variant)
    with contextlib.closing(chatbot):
        return chatbot.chat(QUESTION, config), chatbot.facts()


@pytest.mark.parametrize("family", ["chatglm3", "baichuan2", "mistral"])
def test_fp32_has_the_same_tokens_in_both_engines(itrex, models, family):
    ours, _facts = answer(models(family), "fp32")
    theirs, facts = answer(models(family), "itrex-fp32")
    assert theirs.token_ids == ours.token_ids and theirs.text == ours.text and len(ours.token_ids) == 16
    assert theirs.prompt_token_ids == ours.prompt_token_ids and theirs.finish_reason == ours.finish_reason
    assert facts["engine"]["version"] == "1.4.2" and facts["kernel"] == "ITREX 1.4.2"


def test_a_model_in_the_right_form_is_linked_and_any_other_is_copied(models, home):
    from itrex_chat.engines.itrex.view import prepared

    linked, copied = (prepared(recipes.load(str(models(family)))).folder for family in ("qwen2", "chatglm3"))
    assert (linked / "model.safetensors").is_symlink() and not list(linked.glob("blocks-*"))
    assert list(copied.glob("blocks-*")) and not any(path.is_symlink() for path in copied.iterdir())


def test_a_model_that_has_moved_is_linked_anew(models, home, tmp_path):
    from itrex_chat.engines.itrex.view import prepared

    first, second = tmp_path / "first" / "m", tmp_path / "second" / "m"
    shutil.copytree(models("qwen2"), first)
    view = prepared(recipes.load(str(first))).folder
    second.parent.mkdir()
    first.rename(second)
    assert prepared(recipes.load(str(second))).folder == view
    assert (view / "model.safetensors").resolve() == second / "model.safetensors"


@pytest.mark.parametrize(
    "family, damaged",
    [
        ("qwen2", "rest.safetensors"),
        ("qwen2", "config.json"),
        ("chatglm3", "blocks-00001.safetensors"),
        ("chatglm3", "model.safetensors.index.json"),
    ],
)
@pytest.mark.parametrize("how", ["damaged", "gone"])
def test_what_is_damaged_or_gone_in_a_prepared_folder_is_written_again(models, family, damaged, how):
    from itrex_chat.engines.itrex.view import prepared

    recipe = recipes.load(str(models(family)))
    file = prepared(recipe).folder / damaged
    good, times = file.read_bytes(), file.stat()
    if how == "gone":
        file.unlink()
    else:
        file.write_bytes(good[:-20] + bytes(20))
        os.utime(file, ns=(times.st_atime_ns, times.st_mtime_ns))
    prepared(recipe)
    assert file.read_bytes() == good


def test_sampling_is_the_same_in_both_engines(itrex, models):
    config = GenerationConfig(max_new_tokens=16, do_sample=True, temperature=0.9, top_p=0.9, seed=5)
    assert (
        answer(models("qwen2"), "itrex-fp32", config=config)[0].token_ids
        == answer(models("qwen2"), "fp32", config=config)[0].token_ids
    )


def test_itrex_quantizes_once_and_the_saved_model_gives_the_same_tokens(
    itrex, models, tmp_path, home, capsys, monkeypatch
):
    """Also of a model with groups of zeros, and of weights too small for a scale."""
    folder = tmp_path / "empty"
    shutil.copytree(models("qwen2"), folder)
    tensors = load_file(folder / "model.safetensors")
    tensors["model.layers.0.mlp.up_proj.weight"][:8] = 0
    tensors["model.layers.0.mlp.up_proj.weight"][8:16] = 1e-9
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    monkeypatch.setenv("ITREX_CHAT_CACHE", os.fsdecode(os.fsencode(home) + b"\xc4\xe3"))  # a name that is not UTF-8
    settings = ["--set", "quantization.weight_dtype", "int4_clip"]
    assert quantize.main(["--engine", "itrex", "--model", str(folder), *settings]) == 0
    out = capsys.readouterr().out
    assert "Mixed Precision Statistics" in out and "A32W4G32" in out and "Pass quantize model elapsed time" in out
    assert "0 of 61440 in 14 layers differ" in out and "same tokens" in out and "Later starts" in out
    assert quantize.main(["--engine", "itrex", "--model", str(folder), *settings]) == 0
    assert "From the cache, in" in capsys.readouterr().out


def test_where_itrex_makes_other_integers_its_own_are_kept(itrex, tmp_path, capsys):
    """A width that no group size divides: ITREX has a shorter last group, this program leaves the matrix alone."""
    odd = tiny_models.standard(tmp_path / "odd", "llama", intermediate_size=80)
    found = obtain(recipes.load(str(odd), ["quantization.weight_dtype", "int4_clip"]))
    assert found.saved.own and found.saved.different and found.saved.tokens_equal and found.own.is_file()
    good = found.own.read_bytes()
    assert cache.main([]) == 0 and "quantized by ITREX" in capsys.readouterr().out
    found.own.write_bytes(good[:-1] + b"?")
    again = obtain(recipes.load(str(odd), ["quantization.weight_dtype", "int4_clip"]))
    assert not again.cached and again.own.read_bytes() == good
    record = found.own.with_suffix(".json")
    assert cache.main(["remove", record.stem, "--yes"]) == 0 and not record.exists() and not found.own.exists()
    assert found.artifact.folder.exists()


@pytest.fixture
def asked(tmp_path):
    """Two short questions in a file."""
    file = tmp_path / "two.yaml"
    file.write_text("questions:\n  - {id: a, text: 你好}\n  - {id: b, text: 'What is it?'}\n", "utf-8")
    return str(file)


@pytest.fixture
def both(itrex, models, asked, tmp_path):
    """A run of both engines on a model whose recipe asks for int4_fullrange."""
    assert (
        asking.main(
            [
                "--engine",
                "native,itrex",
                "--model",
                str(models("qwen2")),
                "--variants",
                "fp32,bf16,int4",
                "--max-new-tokens",
                "8",
                "--prompts",
                asked,
                "--out",
                str(tmp_path / "run"),
            ]
        )
        == 1
    )
    return tmp_path / "run"


def test_one_comparison_has_both_engines_and_what_itrex_said(both, capsys):
    content = json.loads((both / "run.json").read_text("utf-8"))["models"]["qwen2-tiny"]["variants"]
    assert {name: facts["state"] for name, facts in content.items()} == {
        "fp32": "done",
        "bf16": "done",
        "int4": "done",
        "itrex-fp32": "done",
        "itrex-bf16": "failed",
        "itrex-int4": "done",
    }
    assert "intel-extension-for-pytorch" in content["itrex-bf16"]["reason"]
    engine = content["itrex-int4"]["load"]["engine"]
    assert any("Mixed Precision Statistics" in line for line in engine["log"]) and any(
        "elapsed time" in line for line in engine["log"]
    )
    assert (
        engine["saved"]["made"] == "int4_clip"
        and engine["saved"]["asked"] == "int4_fullrange"
        and engine["saved"]["different"] == 0
    )
    assert compare.main([str(both)]) == 0
    out = capsys.readouterr().out
    assert (
        "INT4 (ITREX)" in out
        and "quantization, once" in out
        and "makes int4_clip where int4_fullrange is asked for" in out
    )
    written = json.loads((both / "comparison.json").read_text("utf-8"))["models"][0]
    figures = {figure["variant"]: figure for figure in written["figures"]}
    assert figures["itrex-fp32"]["identical"] == figures["itrex-fp32"]["answers"]
    assert figures["itrex-int4"]["build_seconds"] > 0 and "<html" in (both / "comparison.html").read_text("utf-8")


def test_itrexs_chatbot_has_the_names_of_its_own(itrex, models, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with contextlib.closing(
        build_chatbot(PipelineConfig(str(models("qwen2")), MixedPrecisionConfig("float32"), engine="itrex"))
    ) as chatbot:
        config = GenerationConfig(max_new_tokens=8)
        text = chatbot.predict("hello", config=config)
        assert "".join(chatbot.predict_stream("hello", config=config)) == text
        given_up = chatbot.predict_stream("你好", config=config)
        next(given_up)
        assert chatbot.predict("hello", config=config) == text  # and nothing of the answer that nobody waited for
        with pytest.raises(EngineError, match="Another question"):
            list(given_up)
        with pytest.raises(ItrexChatError, match="shorten it"):
            chatbot.predict("hello " * 40000, config=config)
    assert list(tmp_path.glob("nc_workspace")) == [] and not list(models("qwen2").glob("nc_workspace"))


def test_questions_can_be_put_in_itrexs_own_template(itrex, models):
    from itrex_chat.engines import EngineOptions

    recipe = recipes.load(str(models("qwen2")), SHORT)
    with contextlib.closing(load_chatbot(recipe, "itrex-fp32", options=EngineOptions(own_template=True))) as chatbot:
        own = chatbot.chat(QUESTION)
        with pytest.raises(ItrexChatError, match="one question"):
            chatbot.chat([*QUESTION, {"role": "assistant", "content": "hi"}, *QUESTION])
    assert own.prompt_token_ids != answer(models("qwen2"), "fp32")[0].prompt_token_ids


@pytest.mark.parametrize("number, words", [(signal.SIGSEGV, "segmentation fault"), (signal.SIGKILL, "memory ran out")])
def test_a_worker_that_dies_is_one_sentence_with_the_place_of_the_log(itrex, home, models, number, words):
    with Process(models("qwen2"), "qwen-gpt", "fp32", home) as process:
        os.kill(process._worker.pid, number)
        with pytest.raises(EngineError, match=words) as error:
            process.load(
                variant="fp32", quantization=None, artifact=None, matrices={}, frequencies=[], trust=False, own=None
            )
    assert str(process.log) in str(error.value)


def test_what_itrex_keeps_to_itself_is_told(itrex, home, models, tmp_path):
    """Its error is a global, its result None."""
    folder = tmp_path / "view"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({"model_type": "llama", "hidden_size": 64}), "utf-8")
    with Process(folder, "llama", "fp32", home) as process, pytest.raises(EngineError, match="build_chatbot said"):
        process.load(
            variant="fp32", quantization=None, artifact=None, matrices={}, frequencies=[], trust=False, own=None
        )


def own_code(folder: Path, ran: Path) -> Path:
    """A model that says it is a Qwen and brings its own code, which leaves a file where it ran."""
    tiny_models.standard(folder, "qwen2")
    config = json.loads((folder / "config.json").read_text("utf-8"))
    config |= {
        "model_type": "qwen",
        "torch_dtype": "float32",
        "rope_theta": 10000.0,
        "auto_map": {
            "AutoConfig": "configuration_tiny.TinyConfig",
            "AutoModelForCausalLM": "modeling_tiny.TinyForCausalLM",
        },
    }
    config.pop("dtype", None)
    (folder / "config.json").write_text(json.dumps(config), "utf-8")
    (folder / "configuration_tiny.py").write_text(
        "from transformers import Qwen2Config\nclass TinyConfig(Qwen2Config):\n    model_type = 'qwen'\n", "utf-8"
    )
    (folder / "modeling_tiny.py").write_text(
        "from transformers import Qwen2ForCausalLM\nfrom .configuration_tiny import TinyConfig\n"
        f"open({str(ran)!r}, 'w').close()\nclass TinyForCausalLM(Qwen2ForCausalLM):\n    config_class = TinyConfig\n",
        "utf-8",
    )
    tokenizer = json.loads((folder / "tokenizer.json").read_text("utf-8"))
    tokenizer["model"]["merges"] = [" ".join(pair) for pair in tokenizer["model"]["merges"]]
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer), "utf-8")
    return folder


def test_code_that_comes_with_a_model_is_run_only_where_the_user_said_so(itrex, tmp_path):
    folder, ran = own_code(tmp_path / "my-model", tmp_path / "ran"), tmp_path / "ran"
    with pytest.raises(ItrexChatError, match="--trust-remote-code"):
        build_chatbot(PipelineConfig(str(folder), MixedPrecisionConfig("float32"), engine="itrex"))
    assert not ran.exists()
    chatbot = build_chatbot(
        PipelineConfig(str(folder), RtnConfig(compute_dtype="int8"), engine="itrex", trust_remote_code=True)
    )
    with contextlib.closing(chatbot):
        assert chatbot.chat(QUESTION, GenerationConfig(max_new_tokens=8)).new_tokens and ran.exists()


@pytest.mark.parametrize(
    "make",
    [
        lambda: PipelineConfig("smollm2-135m", trust_remote_code=True),
        lambda: PipelineConfig("smollm2-135m", engine="itrx"),
        lambda: recipes.load("smollm2-135m", ["trust_remote_code", "true"]),
    ],
)
def test_a_recipe_cannot_say_that_code_is_to_be_run(make):
    with pytest.raises(ItrexChatError):
        make()


def test_an_architecture_that_itrex_does_not_know_is_refused_by_name(itrex, models):
    with pytest.raises(EngineError, match="ITREX 1.4.2 does not know this architecture .qwen3"):
        answer(models("qwen3"), "itrex-fp32")


def test_without_itrex_the_other_variants_still_run(no_itrex, models, asked, tmp_path, capsys):
    assert (
        asking.main(
            [
                "--engine",
                "native,itrex",
                "--model",
                str(models("qwen2")),
                "--variants",
                "int4",
                "--prompts",
                asked,
                "--max-new-tokens",
                "4",
                "--out",
                str(tmp_path / "run"),
            ]
        )
        == 1
    )
    states = json.loads((tmp_path / "run" / "run.json").read_text("utf-8"))["models"]["qwen2-tiny"]["variants"]
    assert states["int4"]["state"] == "done" and states["itrex-int4"]["state"] == "failed"
    assert f"ITREX is not installed. Install it: {environment.INSTALL}" in capsys.readouterr().err


@pytest.mark.parametrize(
    "python, words",
    [
        (sys.executable, "No module named 'intel_extension_for_transformers'"),
        ("/nowhere/python", "No such file"),
        ("/bin/true", "cannot|exit code|does not work"),
    ],
)
def test_an_interpreter_without_itrex_is_not_adopted(no_itrex, python, words):
    with pytest.raises(EngineError, match=words):
        environment.install(python)
    with pytest.raises(EngineError, match="not installed"):
        environment.find()


def test_the_users_own_environment_is_adopted(itrex, tmp_path, monkeypatch):
    monkeypatch.setenv("ITREX_CHAT_ENGINES", str(tmp_path / "engines"))
    found = environment.install(itrex.python)
    assert found.adopted and environment.find() == found


def test_an_environment_that_is_gone_is_named(itrex, tmp_path, monkeypatch):
    monkeypatch.setenv("ITREX_CHAT_ENGINES", str(tmp_path))
    record = json.loads((ENGINES / "itrex.json").read_text("utf-8")) | {
        "python": str(tmp_path / "gone" / "bin" / "python")
    }
    (tmp_path / "itrex.json").write_text(json.dumps(record), "utf-8")
    with pytest.raises(EngineError, match="is gone"):
        environment.find()


def test_a_damaged_environment_is_seen_and_a_whole_one_is_found_at_once(itrex):
    if itrex.adopted:
        pytest.skip("it is the user's own")
    assert environment.missing_files(ENGINES / "itrex") == [] and environment.install() == itrex


FULL = "OSError: [Errno 28] No space left on device"


@pytest.mark.parametrize(
    "said, reason",
    [
        (f"ERROR: Exception:\nTraceback (most recent call last):\n  File ...\n{FULL}\n\n", FULL),
        (
            f"ERROR: Could not install packages due to an {FULL}\n\nnote: this\n",
            f"Could not install packages due to an {FULL}",
        ),
        ("Collecting torch\n", "it died (exit code 2)"),
    ],
)
def test_what_stopped_pip_is_told_with_its_own_last_words(tmp_path, said, reason):
    (tmp_path / "itrex" / "bin").mkdir(parents=True)
    interpreter = tmp_path / "itrex" / "bin" / "python"
    interpreter.write_text(f"#!/bin/sh\ncat <<'END'\n{said}END\nexit 2\n", "utf-8")
    interpreter.chmod(0o755)
    with pytest.raises(EngineError) as error:
        pip.Steps(tmp_path / "itrex", "digest").install("packages", ["x"])
    assert f"({reason}; the log is {tmp_path / 'itrex.log'})" in str(error.value) and "the disk" in str(error.value)


def test_what_stopped_an_environment_is_told(tmp_path):
    interpreter = tmp_path / "python"
    interpreter.write_text(f"#!/bin/sh\necho '{FULL}' >&2\nexit 1\n", "utf-8")
    interpreter.chmod(0o755)
    with pytest.raises(EngineError, match=re.escape(FULL)):
        pip.Steps(tmp_path / "itrex", "digest").environment(str(interpreter))


def test_doctor_names_a_package_that_is_missing(no_itrex, monkeypatch):
    from itrex_chat import doctor

    monkeypatch.setattr(doctor, "requires", lambda name: ["torch==2.13.0", "not-there==1.0"])
    bad = [finding for finding in doctor.examine() if finding.state == doctor.BAD]
    assert [(finding.text, "pip install not-there==1.0" in finding.remedy) for finding in bad] == [
        ("not-there is missing", True)
    ]


def test_doctor_names_what_works_and_the_command_for_the_rest(no_itrex):
    run = subprocess.run(
        [sys.executable, "-m", "itrex_chat.doctor", "--engine", "itrex"], capture_output=True, text=True
    )
    assert run.returncode == 1 and "Traceback" not in run.stderr
    assert (
        "engine native: works" in run.stdout and "[!!] engine itrex" in run.stdout and environment.INSTALL in run.stdout
    )
    healthy = subprocess.run([sys.executable, "-m", "itrex_chat.doctor"], capture_output=True, text=True)
    assert healthy.returncode == 0 and "kernel reference (torch): usable" in healthy.stdout
