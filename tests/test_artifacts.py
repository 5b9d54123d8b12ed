"""Artifacts: whole or not at all, found again, checked, resumed, repaired, safe from a second process."""

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from itrex_chat import sources
from itrex_chat.artifacts import Artifact, ArtifactStore, manifest, obtain, writer
from itrex_chat.artifacts.obtaining import verified
from itrex_chat.checkpoints import open_checkpoint
from itrex_chat.foundation import space
from itrex_chat.foundation.errors import ArtifactError, ItrexChatError
from itrex_chat.quantization.tensor import QuantizedTensor
from itrex_chat.settings import recipe as recipes

FAMILIES = ("chatglm3", "qwen", "baichuan2", "llama", "qwen3", "glm4")


@pytest.fixture
def copied(models, tmp_path):
    return lambda family="qwen2": Path(shutil.copytree(models(family), tmp_path / f"{family}-model"))


def made(folder: Path, *settings: str) -> Artifact:
    return obtain(recipes.load(str(folder), list(settings))).artifact


def loaded_tensors(artifact: Artifact) -> dict:
    return {name: artifact.tensor(name) for name in artifact.manifest["tensors"]}


@pytest.mark.parametrize("family", FAMILIES)
def test_an_artifact_holds_the_rounded_weights_of_its_checkpoint(family, models):
    artifact = made(models(family))
    checkpoint = open_checkpoint(sources.local(models(family)))
    assert artifact.decoder == checkpoint.decoder
    for spec in checkpoint.specs():
        exact = checkpoint.tensor(spec).float()
        if spec.role in ("linear", "head"):
            matrix = artifact.matrix(spec.name.removesuffix(".weight"))
            assert isinstance(matrix, QuantizedTensor) and matrix.bits == {"linear": 4, "head": 8}[spec.role]
            steps = matrix.scales.float().abs().t().repeat_interleave(matrix.group_size, 1)
            # Half a step, a whole one for what full range cuts off at 7, and the scale's rounding to float16.
            assert ((matrix.dequantize() - exact).abs() <= steps * (1.01 if matrix.bits == 4 else 0.6)).all()
        else:
            assert torch.allclose(artifact.tensor(spec.name).float(), exact, rtol=2**-11, atol=1e-7)


def test_the_same_recipe_is_answered_from_the_cache(models):
    first, second = (obtain(recipes.load(str(models("qwen2")))) for _time in range(2))
    assert (first.cached, second.cached) == (False, True)
    assert first.artifact.folder == second.artifact.folder


def test_the_cache_answers_in_another_process_without_torch(models):
    made(models("qwen2"))
    script = (
        "import sys\nfrom itrex_chat import quantize\n"
        f"code = quantize.main(['--model', {str(models('qwen2'))!r}])\n"
        "assert code == 0 and 'torch' not in sys.modules, sorted(sys.modules)"
    )
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    assert "From the cache" in run.stdout


def test_the_same_files_elsewhere_are_the_same_model(copied, models):
    first = made(models("qwen2"))
    assert made(copied()).folder == first.folder


@pytest.mark.parametrize(
    "settings",
    [
        ["quantization.group_size", "64"],
        ["quantization.weight_dtype", "int4_clip"],
        ["quantization.weight_dtype", "int8"],
        ["quantization.head", "int4"],
        ["quantization.head", "none"],
    ],
)
def test_other_settings_make_another_artifact(settings, models):
    assert made(models("qwen2"), *settings).folder != made(models("qwen2")).folder


@pytest.mark.parametrize(
    "settings", [["quantization.compute_dtype", "fp32"], ["generation.max_new_tokens", "5"], ["chat.system", "x"]]
)
def test_settings_that_do_not_change_the_weights_do_not_quantize_again(settings, models):
    assert made(models("qwen2"), *settings).folder == made(models("qwen2")).folder


def test_a_changed_source_file_is_seen_even_if_size_and_time_are_the_same(copied):
    folder = copied()
    before = made(folder)
    file = folder / "model.safetensors"
    status, content = file.stat(), bytearray(file.read_bytes())
    content[-100] ^= 1
    file.write_bytes(content)
    os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert made(folder).folder != before.folder


def test_a_new_version_of_the_numerics_quantizes_again(models, monkeypatch):
    before = made(models("qwen2"))
    monkeypatch.setattr(manifest, "NUMERICS_VERSION", manifest.NUMERICS_VERSION + 1)
    assert made(models("qwen2")).folder != before.folder


def test_nothing_in_an_artifact_depends_on_where_or_when_it_was_made(models, tmp_path):
    first = loaded_tensors(made(models("chatglm3")))
    second = loaded_tensors(obtain(recipes.load(str(models("chatglm3"))), tmp_path / "other").artifact)
    assert first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def test_several_weight_files_hold_the_same_as_one(models, monkeypatch, tmp_path):
    whole = loaded_tensors(made(models("qwen2")))
    monkeypatch.setattr("itrex_chat.quantization.plan.SHARD", 30_000)
    artifact = obtain(recipes.load(str(models("qwen2"))), tmp_path / "other").artifact
    assert len(list(artifact.folder.glob("model-*.safetensors"))) > 3
    index = json.loads((artifact.folder / "model.safetensors.index.json").read_text("utf-8"))
    assert index["weight_map"] == artifact.manifest["tensors"]
    parts = loaded_tensors(artifact)
    assert whole.keys() == parts.keys() and all(torch.equal(whole[name], parts[name]) for name in whole)


def test_config_json_describes_a_native_architecture_with_its_quantization(models):
    artifact = made(models("chatglm3"), "quantization.group_size", "64")
    config = json.loads((artifact.folder / "config.json").read_text("utf-8"))
    assert config["architectures"] == ["GlmForCausalLM"] and config["tie_word_embeddings"] is False
    assert "auto_map" not in config
    quantization = config["quantization_config"]
    assert (quantization["quant_method"], quantization["bits"], quantization["group_size"]) == ("auto-round", 4, 64)
    assert quantization["extra_config"]["lm_head"]["bits"] == 8
    assert quantization["extra_config"]["model.layers.0.mlp.down_proj"]["group_size"] == 32


def damage(artifact: Artifact, how: str) -> Path:
    file = sorted(artifact.folder.glob("*.safetensors"))[0]
    if how == "bit flip":
        content = bytearray(file.read_bytes())
        content[len(content) // 2] ^= 16
        file.write_bytes(content)
    elif how == "truncation":
        file.write_bytes(file.read_bytes()[:-10])
    elif how == "missing file":
        file.unlink()
    elif how == "wrong size":
        file.write_bytes(file.read_bytes() + b"x")
    elif how == "damaged manifest":
        file = artifact.folder / "manifest.json"
        file.write_text(file.read_text("utf-8").replace('"bits"', '"bitz"', 1).replace("int4", "int5", 1), "utf-8")
    elif how == "missing manifest":
        file = artifact.folder / "manifest.json"
        file.unlink()
    elif how == "other configuration":
        file = artifact.folder / "config.json"
        file.write_text(file.read_text("utf-8").replace("96", "97", 1), "utf-8")
    return file


DAMAGE = (
    "bit flip",
    "truncation",
    "missing file",
    "wrong size",
    "damaged manifest",
    "missing manifest",
    "other configuration",
)


@pytest.mark.parametrize("how", DAMAGE)
def test_damage_is_named_by_verify(how, models):
    artifact = made(models("qwen2"))
    file = damage(artifact, how)
    with pytest.raises(ArtifactError, match=file.name):
        Artifact.open(artifact.folder).verify()


@pytest.mark.parametrize("how", DAMAGE)
def test_damage_is_repaired_by_quantizing_again_and_never_used(how, models, capsys):
    artifact = made(models("qwen2"))
    whole = loaded_tensors(artifact)
    damage(artifact, how)
    repaired = verified(recipes.load(str(models("qwen2"))))
    repaired.verify()
    assert all(torch.equal(tensor, whole[name]) for name, tensor in loaded_tensors(repaired).items())
    assert "Quantizing again" in capsys.readouterr().err


def test_an_artifact_outlives_its_local_source(copied):
    folder = copied()
    artifact = made(folder)
    recipe = recipes.load(str(folder))
    shutil.rmtree(folder)
    assert obtain(recipe).artifact.folder == artifact.folder


def test_an_interrupted_writing_is_no_artifact_and_the_next_goes_on_behind_it(models, monkeypatch):
    monkeypatch.setattr("itrex_chat.quantization.plan.SHARD", 30_000)
    quantized, original = [], writer.artifact_tensors

    def interrupted(checkpoint, treatment, bar):
        if len(quantized) == 20:
            raise KeyboardInterrupt
        quantized.append(treatment.name)
        return original(checkpoint, treatment, bar)

    monkeypatch.setattr(writer, "artifact_tensors", interrupted)
    with pytest.raises(KeyboardInterrupt):
        made(models("qwen2"))
    store = ArtifactStore()
    assert store.folders() == [] and len(store.partial_folders()) == 1
    first = list(quantized)

    quantized.clear()
    monkeypatch.setattr(
        writer, "artifact_tensors", lambda *arguments: quantized.append(arguments[1].name) or original(*arguments)
    )
    artifact = made(models("qwen2"))
    artifact.verify()
    assert len(set(first) & set(quantized)) < len(first)  # only the unfinished weight file's again
    assert store.partial_folders() == []


def test_a_damaged_leftover_of_an_interrupted_writing_is_not_used(models, monkeypatch, tmp_path):
    monkeypatch.setattr("itrex_chat.quantization.plan.SHARD", 30_000)
    whole = loaded_tensors(obtain(recipes.load(str(models("qwen2"))), tmp_path / "other").artifact)
    calls = []

    def interrupted(*arguments):
        calls.append(1)
        if len(calls) == 20:
            raise KeyboardInterrupt
        return original(*arguments)

    original = writer.artifact_tensors
    monkeypatch.setattr(writer, "artifact_tensors", interrupted)
    with pytest.raises(KeyboardInterrupt):
        made(models("qwen2"))
    monkeypatch.setattr(writer, "artifact_tensors", original)
    [partial] = ArtifactStore().partial_folders()
    file = sorted(partial.glob("*.safetensors"))[0]
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    tensors = loaded_tensors(made(models("qwen2")))
    assert all(torch.equal(tensors[name], whole[name]) for name in whole)


QUANTIZE = [sys.executable, "-m", "itrex_chat.quantize", "--model"]


def test_two_quantizations_at_once_make_one_artifact(models):
    both = [
        subprocess.Popen(
            [*QUANTIZE, str(models("chatglm3"))], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        for _number in range(2)
    ]
    results = [process.communicate() for process in both]
    assert [process.returncode for process in both] == [0, 0], results
    assert len(ArtifactStore().whole()) == 1
    assert sum("Kept in" in out for out, _err in results) == 1


@pytest.mark.parametrize("seconds", [2.0, 3.0, 4.0, 4.5, 5.0])
def test_a_quantization_killed_at_any_moment_leaves_nothing_half_done(seconds, models):
    process = subprocess.Popen(
        [*QUANTIZE, str(models("chatglm3"))], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    time.sleep(seconds)
    process.kill()
    process.wait()
    for artifact in ArtifactStore().whole():
        artifact.verify()
    artifact = made(models("chatglm3"))
    artifact.verify()
    assert ArtifactStore().partial_folders() == []


def test_an_artifact_in_use_cannot_be_removed_and_one_not_in_use_can(models):
    artifact, store = made(models("qwen2")), ArtifactStore()
    with store.lock(artifact.manifest["key"]):
        other = subprocess.run(
            [sys.executable, "-m", "itrex_chat.cache", "remove", artifact.folder.name, "--yes"],
            capture_output=True,
            text=True,
        )
    assert other.returncode == 1 and "Another process" in other.stderr
    assert artifact.folder.exists()
    store.remove(artifact.folder)
    assert store.folders() == []


def test_a_cache_that_cannot_be_written_is_named(models, tmp_path, monkeypatch):
    file = tmp_path / "file"
    file.write_text("", "utf-8")
    for place in (file, Path("/proc/no-such-place")):
        monkeypatch.setenv("ITREX_CHAT_CACHE", str(place))
        with pytest.raises(ItrexChatError, match="ITREX_CHAT_CACHE"):
            made(models("qwen2"))


def test_too_little_space_is_said_before_anything_is_written(models, monkeypatch):
    monkeypatch.setattr(space.shutil, "disk_usage", lambda path: Usage)
    with pytest.raises(ArtifactError, match="needs .* more, but the disk .* has 1 MB left"):
        made(models("qwen2"))
    assert ArtifactStore().folders() == []


class Usage:
    free = 1_000_000


def test_a_recipe_for_another_family_is_refused(models, tmp_path):
    file = tmp_path / "mine.yaml"
    file.write_text(f"family: chatglm3\nsource: {{path: {models('qwen2')}}}\n", "utf-8")
    with pytest.raises(ArtifactError, match="is for the family chatglm3, but the checkpoint is of the family qwen2"):
        obtain(recipes.load(str(file)))
