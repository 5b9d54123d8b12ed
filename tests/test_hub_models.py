"""A model on a hub, by the commands: downloaded, quantized, asked, and then without the network."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from executors import InProcess
from standin_hub import REPOSITORY, StandinHub, StandinServer

from itrex_chat import ask as asking
from itrex_chat.engines import preparation
from itrex_chat.foundation import machine
from itrex_chat.foundation.units import readable
from itrex_chat.jobs.job import Prepare
from itrex_chat.runs.asking import ask
from itrex_chat.runs.record import RunRecord
from itrex_chat.settings import recipe as recipes

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module")
def address():
    return StandinServer()


@pytest.fixture
def hub(address, models):
    """The stand-in with a tiny ChatGLM3, its code included."""
    files = {path.name: path.read_bytes() for path in models("chatglm3").iterdir()}
    address.hub = StandinHub(files | {"modeling_chatglm.py": b"raise SystemExit", "README.md": b"# model"})
    yield address.hub
    address.hub.release()


def run(endpoint: str, *arguments: str) -> subprocess.CompletedProcess:
    environment = {name: value for name, value in os.environ.items() if not name.lower().endswith("_proxy")}
    environment |= {
        "MODELSCOPE_ENDPOINT": endpoint,
        "HF_ENDPOINT": endpoint,
        "PYTHONPATH": str(ROOT),
        "ITREX_CHAT_DOWNLOAD_PATIENCE": "1",
    }
    return subprocess.run([sys.executable, "-m", *arguments], env=environment, capture_output=True, text=True)


@pytest.mark.parametrize("name", ["modelscope", "huggingface"])
def test_a_hubs_model_is_downloaded_quantized_asked_and_then_needs_no_network(name, hub, address, home, tmp_path):
    model = ("--model", REPOSITORY, "--set", "source.hub", name)
    first = run(address.endpoint, "itrex_chat.quantize", *model)
    assert first.returncode == 0, first.stderr
    assert "modeling_chatglm.py" not in {transfer.name for transfer in hub.transfers}
    [manifest] = (home / "artifacts").glob("*/manifest.json")
    origin = json.loads(manifest.read_text("utf-8"))["source"]["origin"]
    assert (origin["kind"], origin["repository"], origin["commit"]) == (name, REPOSITORY, hub.head.sha)

    transfers, questions = len(hub.transfers), hub.questions
    again = run(address.endpoint, "itrex_chat.quantize", *model)
    assert "From the cache" in again.stdout
    asked = run(address.endpoint, "itrex_chat.ask", *model, "--max-new-tokens", "2", "--out", str(tmp_path / "run"))
    assert asked.returncode == 0, asked.stderr
    assert (len(hub.transfers), hub.questions) == (transfers, questions)
    assert len((tmp_path / "run" / "answers.jsonl").read_text("utf-8").splitlines()) == 10


def test_int4_is_answered_without_the_downloaded_files_and_fp32_says_that_it_needs_them(hub, address, home, tmp_path):
    assert run(address.endpoint, "itrex_chat.quantize", "--model", REPOSITORY).returncode == 0
    shutil.rmtree(home / "sources")
    dead = "http://127.0.0.1:9"
    asked = run(dead, "itrex_chat.ask", "--model", REPOSITORY, "--max-new-tokens", "2", "--out", str(tmp_path / "run"))
    assert asked.returncode == 1 and "FP32: ModelScope cannot be reached" in asked.stderr
    answers = [json.loads(line) for line in (tmp_path / "run" / "answers.jsonl").read_text("utf-8").splitlines()]
    assert {answer["variant"] for answer in answers} == {"int4"}


def test_originals_are_not_downloaded_for_a_variant_that_would_not_fit_anyway(
    hub, address, home, tmp_path, monkeypatch
):
    """The artifact knows how large the model is: FP32 is skipped without asking the hub for its 12.5 GB."""
    assert run(address.endpoint, "itrex_chat.quantize", "--model", REPOSITORY).returncode == 0
    shutil.rmtree(home / "sources")
    for variable in ("MODELSCOPE_ENDPOINT", "HF_ENDPOINT"):
        monkeypatch.setenv(variable, address.endpoint)
    transfers, questions = len(hub.transfers), hub.questions
    recipe = recipes.load(REPOSITORY, ["generation.max_new_tokens", "2", "fp32.storage", "fp32"])
    left = prepared_needs(recipe)["fp32"] - 1
    monkeypatch.setattr(machine, "available_memory", lambda: left)
    record = ask([recipe], None, None, tmp_path / "run", executor=InProcess())
    variants = record.content.models[record.content.spec.models[0].label].variants
    assert (variants["fp32"].state, variants["int4"].state) == ("skipped", "done")
    assert "of memory, but" in variants["fp32"].reason
    assert (len(hub.transfers), hub.questions) == (transfers, questions)


@pytest.fixture
def reachable(address, monkeypatch):
    """This process has the stand-in for its hub, and does what workers do."""
    for variable in ("MODELSCOPE_ENDPOINT", "HF_ENDPOINT"):
        monkeypatch.setenv(variable, address.endpoint)
    monkeypatch.setattr("itrex_chat.runs.asking.LocalExecutor", InProcess)


def asked_by_hand(folder: Path, *options: str) -> dict[str, str]:
    """What `ask` made of each variant, by the command."""
    assert asking.main(["--model", REPOSITORY, "--max-new-tokens", "2", "--out", str(folder), *options]) == 0
    [model] = RunRecord.read(folder).content.models.values()
    return {name: variant.state for name, variant in model.variants.items()}


def test_large_originals_are_downloaded_for_fp32_only_where_it_is_named(
    hub, address, home, reachable, tmp_path, monkeypatch, capsys
):
    monkeypatch.setattr(preparation, "LARGEST_UNASKED", 0)
    # Without an artifact INT4 needs the originals itself, so that FP32 costs no download.
    assert asked_by_hand(tmp_path / "first") == {"fp32": "done", "int4": "done"}
    # With them at hand, there is nothing to download.
    assert asked_by_hand(tmp_path / "second") == {"fp32": "done", "int4": "done"}
    shutil.rmtree(home / "sources")
    capsys.readouterr()
    transfers, questions = len(hub.transfers), hub.questions
    assert asked_by_hand(tmp_path / "third") == {"fp32": "skipped", "int4": "done"}
    assert (len(hub.transfers), hub.questions) == (transfers, questions)
    [model] = RunRecord.read(tmp_path / "third").content.models.values()
    size = sum(len(content) for name, content in hub.files.items() if not name.endswith((".py", ".md")))
    assert f"({readable(size)})" in model.variants["fp32"].reason
    assert model.variants["fp32"].reason.endswith("--variants fp32,int4.")
    assert model.variants["fp32"].reason in capsys.readouterr().err
    assert asked_by_hand(tmp_path / "fourth", "--variants", "fp32,int4") == {"fp32": "done", "int4": "done"}
    assert len(hub.transfers) > transfers


def test_originals_of_a_small_model_are_downloaded_unasked(hub, home, reachable, tmp_path):
    assert asked_by_hand(tmp_path / "first", "--variants", "int4") == {"int4": "done"}
    shutil.rmtree(home / "sources")
    assert asked_by_hand(tmp_path / "second") == {"fp32": "done", "int4": "done"}


def prepared_needs(recipe) -> dict[str, int]:
    """What `ask` plans for each variant, by the artifact alone."""
    [event] = InProcess().run(Prepare(recipe=recipe, variants=("int4",), tokens=1))
    return event.needs


def test_refresh_takes_a_changed_model_and_keeps_the_old_artifact(hub, address, home):
    assert run(address.endpoint, "itrex_chat.quantize", "--model", REPOSITORY).returncode == 0
    config = json.loads(hub.files["config.json"])
    hub.push(hub.files | {"config.json": json.dumps(config | {"seq_length": 4096}).encode()})
    assert "From the cache" in run(address.endpoint, "itrex_chat.quantize", "--model", REPOSITORY).stdout
    refreshed = run(address.endpoint, "itrex_chat.quantize", "--model", REPOSITORY, "--refresh")
    assert "Kept in" in refreshed.stdout, refreshed.stderr
    assert len(list((home / "artifacts").glob("*/manifest.json"))) == 2
    assert "From the cache" in run(address.endpoint, "itrex_chat.quantize", "--model", REPOSITORY).stdout
