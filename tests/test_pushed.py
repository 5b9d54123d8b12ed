"""Artifacts that are pushed to a hub, pulled from it, and asked: by the commands, with the hubs' own libraries."""

import hashlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from executors import InProcess
from standin_hub import REPOSITORY, StandinHub
from standin_uploads import UploadServer

from itrex_chat import ask, cache, measure, pull, push
from itrex_chat.artifacts import Artifact, ArtifactStore, obtain
from itrex_chat.artifacts import manifest as manifests
from itrex_chat.artifacts.cached import cached_models
from itrex_chat.artifacts.obtaining import verified
from itrex_chat.engines.on_disk import of_checkpoint
from itrex_chat.foundation.errors import ArtifactError, CheckpointError
from itrex_chat.settings import recipe as recipes

ROOT = Path(__file__).resolve().parent.parent
HUBS = ("modelscope", "huggingface")
FAMILIES = ("chatglm3", "qwen", "baichuan2", "llama")


@pytest.fixture(scope="module")
def server():
    return UploadServer()


@pytest.fixture
def run(server):
    """A function that runs a command against an empty stand-in, with a token that may write."""
    server.__dict__.update(tokens={"secret"}, asked=[], sent=set(), blobs={}, made={})
    server.hub = StandinHub({})
    variables = {name: value for name, value in os.environ.items() if not name.lower().endswith("_proxy")}
    variables |= {"MODELSCOPE_ENDPOINT": server.endpoint, "HF_ENDPOINT": server.endpoint, "PYTHONPATH": str(ROOT)}
    variables |= {"MODELSCOPE_API_TOKEN": "secret", "HF_TOKEN": "secret", "HF_HUB_DISABLE_XET": "1"}

    def run(verb: str, *arguments: str, **environment: str) -> subprocess.CompletedProcess:
        command = [sys.executable, "-m", f"itrex_chat.{verb}", *arguments]
        return subprocess.run(command, env=variables | environment, capture_output=True, text=True)

    return run


@pytest.fixture
def artifact(models):
    return obtain(recipes.load(str(models("qwen2")))).artifact


def laid_out(artifact: Artifact, folder: Path) -> Path:
    """The folder that would be pushed."""
    assert push.main([str(artifact.folder), "owner/model", "--dry-run", "--out", str(folder)]) == 0
    return folder


def tampered(folder: Path) -> None:
    content = bytearray((folder / "model.safetensors").read_bytes())
    content[-1] ^= 1
    (folder / "model.safetensors").unlink()  # it is a link to the artifact's
    (folder / "model.safetensors").write_bytes(content)


@pytest.mark.parametrize("hub", HUBS)
def test_what_is_pushed_is_pulled_verified_and_answers_without_the_originals(
    hub, run, server, artifact, home, tmp_path, monkeypatch, capsys
):
    pushed = run("push", "qwen2-tiny", REPOSITORY, "--to", hub)
    assert pushed.returncode == 0, pushed.stderr
    assert REPOSITORY in pushed.stdout and "secret" not in pushed.stdout + pushed.stderr
    assert REPOSITORY in server.made and server.sent == {"secret"}
    shutil.rmtree(home)

    pulled = run("pull", REPOSITORY, "--set", "source.hub", hub)
    assert pulled.returncode == 0 and "model is here: INT4" in pulled.stdout, pulled.stderr
    assert not (home / "artifacts").exists()
    [recipe] = cached_models([])
    assert (recipe.name, recipe.source.hub, recipe.source.modelscope) == ("model", hub, REPOSITORY)
    assert cache.main([]) == 0 and "INT4 answers with it alone" in capsys.readouterr().out

    monkeypatch.setattr("itrex_chat.runs.asking.LocalExecutor", InProcess)
    model, out = ("--model", REPOSITORY, "--set", "source.hub", hub), tmp_path / "run"
    assert ask.main([*model, "--max-new-tokens", "2", "--out", str(out)]) == 0
    answers = [json.loads(line) for line in (out / "answers.jsonl").read_text("utf-8").splitlines()]
    assert {answer["variant"] for answer in answers} == {"int4"} and len(answers) == 5
    assert "is a quantized model in INT4, without originals for FP32" in capsys.readouterr().err
    assert pull.main([REPOSITORY, "--set", "source.hub", hub, "--for", "fp32"]) == 1
    assert "or name the originals: --model" in capsys.readouterr().err


@pytest.mark.parametrize("hub", HUBS)
def test_a_newer_artifact_takes_the_place_of_an_older_one_whatever_files_that_had(
    hub, run, server, models, home, monkeypatch, tmp_path
):
    with monkeypatch.context() as small:
        small.setattr("itrex_chat.quantization.plan.SHARD", 30_000)
        several = obtain(recipes.load(str(models("qwen2")))).artifact
    first = run("push", str(several.folder), REPOSITORY, "--to", hub)
    assert first.returncode == 0, first.stderr
    of_the_first = {path.name for path in several.folder.glob("model*")}
    assert len(of_the_first) > 2 and of_the_first < server.hub.files.keys()
    server.commit({"picture.png": b"a picture", "model-of-mine.safetensors": b"weights"})

    one = obtain(recipes.load(str(models("qwen2")), ["quantization.group_size", "64"])).artifact
    second = run("push", str(one.folder), REPOSITORY, "--to", hub)
    assert second.returncode == 0, second.stderr
    assert not of_the_first & server.hub.files.keys()
    assert {"picture.png", "model-of-mine.safetensors"} < server.hub.files.keys()  # which were no artifact's
    assert {path.name for path in one.folder.iterdir()} < server.hub.files.keys()

    pulled = run("pull", REPOSITORY, "--set", "source.hub", hub, ITREX_CHAT_CACHE=str(tmp_path / "elsewhere"))
    assert pulled.returncode == 0 and "model is here: INT4" in pulled.stdout, pulled.stderr
    [weights] = (tmp_path / "elsewhere").rglob("*.safetensors")
    assert weights.read_bytes() == (one.folder / "model.safetensors").read_bytes()


def test_a_repository_that_was_tampered_with_is_refused(run, server, artifact, home, tmp_path):
    tampered(folder := laid_out(artifact, tmp_path / "out"))
    server.commit({path.name: path.read_bytes() for path in folder.iterdir()})
    shutil.rmtree(home)
    pulled = run("pull", REPOSITORY)
    assert pulled.returncode == 1
    assert "its SHA-256 is not the recorded one. This artifact was not made here and is not used" in pulled.stderr


def test_what_the_hub_has_is_not_sent_again(run, server, artifact):
    weights = (artifact.folder / "model.safetensors").read_bytes()
    server.blobs[hashlib.sha256(weights).hexdigest()] = weights
    assert run("push", "qwen2-tiny", REPOSITORY, "--to", "huggingface").returncode == 0
    assert not any(line.startswith("PUT") for line in server.asked)
    assert server.hub.head.files["model.safetensors"] == weights


@pytest.mark.parametrize("hub, token", [("modelscope", "MODELSCOPE_API_TOKEN"), ("huggingface", "HF_TOKEN")])
def test_a_token_that_may_not_write_is_named_and_not_shown(hub, token, run, artifact, tmp_path):
    refused = run("push", "qwen2-tiny", REPOSITORY, "--to", hub, HOME=str(tmp_path), **{token: "wrong-token"})
    assert refused.returncode == 1 and f"Set {token}" in refused.stderr, refused.stderr
    assert "wrong-token" not in refused.stdout + refused.stderr


def test_a_dry_run_writes_the_folder_and_asks_no_hub(artifact, tmp_path, capsys):
    folder = laid_out(artifact, tmp_path / "out")
    card = (folder / "README.md").read_text("utf-8")
    _nothing, metadata, text = card.split("---\n", 2)
    values = yaml.safe_load(metadata)
    assert values["pipeline_tag"] == "text-generation" and "int4" in values["tags"]
    assert "int4_fullrange, groups of 32" in text and "bits per weight" in text and "Not measured yet" in text
    assert "Nothing was pushed" in capsys.readouterr().out
    Artifact.open(folder).verify()


def test_nothing_that_is_pushed_tells_where_the_model_lay(artifact, models, tmp_path):
    folder = laid_out(artifact, tmp_path / "out")
    place = str(models("qwen2").parent)
    assert [path.name for path in folder.iterdir() if place.encode() in path.read_bytes()] == []


def test_the_card_says_what_it_cost_where_that_was_measured(models, tmp_path, monkeypatch, capsys):
    for room in ("runs.asking", "quality.measuring"):
        monkeypatch.setattr(f"itrex_chat.{room}.LocalExecutor", InProcess)
    model = str(models("qwen2"))
    assert ask.main(["--model", model, "--max-new-tokens", "4"]) == 0
    assert measure.main([]) == 0
    assert cache.main([]) == 0
    shown = capsys.readouterr().out
    assert "FP32 of qwen2-tiny; measure and sweep need it" in shown and "INT4 of qwen2-tiny; measure" in shown
    artifact = obtain(recipes.load(model)).artifact
    card = (laid_out(artifact, tmp_path / "out") / "README.md").read_text("utf-8")
    assert "Not measured yet" not in card
    assert "| tokens per second |" in card and "mean KL divergence, nats" in card and "| FP32 | INT4 |" in card


@pytest.mark.parametrize("family", FAMILIES)
def test_a_folder_that_holds_an_artifact_is_one(family, models, tmp_path, monkeypatch):
    made = obtain(recipes.load(str(models(family)))).artifact
    folder = laid_out(made, tmp_path / "out")
    monkeypatch.setenv("ITREX_CHAT_CACHE", str(tmp_path / "elsewhere"))
    found = verified(recipes.load(str(folder)))
    assert found.folder == folder and found.manifest["key"] == made.manifest["key"]
    assert ArtifactStore().folders() == []
    with pytest.raises(CheckpointError, match="is a quantized model in INT4, without originals for FP32"):
        of_checkpoint(recipes.load(str(folder)))


def test_other_settings_than_its_own_are_refused_and_its_own_need_not_be_named(models, tmp_path):
    made = obtain(recipes.load(str(models("qwen2")), ["quantization.group_size", "64"])).artifact
    folder = laid_out(made, tmp_path / "out")
    assert obtain(recipes.load(str(folder))).artifact.folder == folder
    assert obtain(recipes.load(str(folder), ["quantization.group_size", "64"])).artifact.folder == folder
    for settings in (["quantization.group_size", "128"], ["quantization.weight_dtype", "int8"]):
        with pytest.raises(ArtifactError, match="without originals for FP32, BF16 or other settings"):
            obtain(recipes.load(str(folder), settings))


def test_a_tampered_folder_is_refused_and_stays(artifact, tmp_path):
    folder = laid_out(artifact, tmp_path / "out")
    tampered(folder)
    with pytest.raises(ArtifactError, match="not made here and is not used"):
        verified(recipes.load(str(folder)))
    assert folder.exists()
    Artifact.open(artifact.folder).verify()


def test_an_artifact_that_claims_to_be_of_a_known_model_is_not_taken_for_it(artifact, models, tmp_path):
    """Whatever key and source a manifest claims: it answers under its own name alone."""
    folder = laid_out(artifact, tmp_path / "out")
    ArtifactStore().remove(artifact.folder)
    assert obtain(recipes.load(str(folder))).artifact.folder == folder
    again = obtain(recipes.load(str(models("qwen2"))))
    assert not again.cached and again.artifact.folder.parent == ArtifactStore().folder


def test_a_manifest_that_is_none_of_ours_leaves_a_model_as_it_is(models, tmp_path):
    folder = shutil.copytree(models("qwen2"), tmp_path / "model")
    before = obtain(recipes.load(str(models("qwen2")))).artifact
    for content in ("{}", "[1]", "{", '{"format": 1, "files": []}'):
        (folder / "manifest.json").write_text(content, "utf-8")
        assert obtain(recipes.load(str(folder))).artifact.folder == before.folder


def test_what_cannot_be_pushed_is_said(artifact, tmp_path, capsys):
    for arguments, sentence in (
        (["nothing", "owner/name"], "no artifact nothing to push"),
        (["qwen2-tiny", "name"], "should look like owner/name"),
        (["qwen2-tiny", "owner/name", "--dry-run", "--out", str(artifact.folder)], "is not empty"),
    ):
        assert push.main(arguments) == 1
        assert sentence in capsys.readouterr().err


def test_pull_goes_on_with_the_next_and_its_exit_code_says_that_one_failed(models, capsys):
    assert pull.main(["nothing", str(models("qwen2")), "--for", "int4,fp32"]) == 1
    shown = capsys.readouterr()
    assert "nothing: There is no model nothing" in shown.err and "qwen2-tiny is here: INT4 " in shown.out
    assert "FP32" in shown.out
    assert pull.main([str(models("qwen2"))]) == 0
    assert pull.main([str(models("qwen2")), "--for", "int5"]) == 1
    assert manifests.read(ArtifactStore().folders()[0])
