"""Checkpoints in every layout are the same model; bad ones are refused with a sentence, and none runs code."""

import json
import pickle
import shutil
from pathlib import Path

import gguf
import numpy as np
import pytest
import tiny_gguf
import tiny_models
import torch
from safetensors.torch import load_file, save_file

from itrex_chat import sources
from itrex_chat.checkpoints import Checkpoint, open_checkpoint
from itrex_chat.foundation.errors import CheckpointError, SourceError

CHANGED_FILES = {"config.json", "model.safetensors.index.json"}


def opened(folder: Path) -> Checkpoint:
    return open_checkpoint(sources.local(folder))


def tensors_of(checkpoint: Checkpoint) -> dict[str, torch.Tensor]:
    return {spec.name: checkpoint.tensor(spec) for spec in checkpoint.specs()}


def same(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> bool:
    return first.keys() == second.keys() and all(
        torch.equal(first[name].float(), second[name].float()) for name in first
    )


@pytest.fixture
def copied(models, tmp_path):
    """A function that gives a copy of a tiny model's folder to damage."""
    return lambda family: Path(shutil.copytree(models(family), tmp_path / family))


def all_tensors(folder: Path) -> dict[str, torch.Tensor]:
    tensors = {}
    for file in folder.glob("*.safetensors"):
        tensors |= load_file(file)
    return tensors


def as_layout(folder: Path, layout: str) -> Path:
    """Rewrite a folder's safetensors in another layout."""
    tensors = all_tensors(folder)
    for file in [*folder.glob("*.safetensors"), *folder.glob("*.index.json")]:
        file.unlink()
    if layout == "one safetensors":
        save_file(tensors, folder / "model.safetensors")
    elif layout == "three shards":
        tiny_models.sharded(folder, tensors, 3)
    elif layout == "shards without an index":
        tiny_models.sharded(folder, tensors, 2)
        (folder / "model.safetensors.index.json").unlink()
    elif layout == "one bin":
        torch.save(tensors, folder / "pytorch_model.bin")
    elif layout == "bin of before torch 1.6":
        torch.save(tensors, folder / "pytorch_model.bin", _use_new_zipfile_serialization=False)
    elif layout == "two bins":
        names = list(tensors)
        homes = {name: f"pytorch_model-0000{1 + (i % 2)}-of-00002.bin" for i, name in enumerate(names)}
        for file in set(homes.values()):
            torch.save({name: tensors[name] for name in names if homes[name] == file}, folder / file)
        (folder / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": homes}), "utf-8")
    return folder


@pytest.mark.parametrize(
    "layout",
    ["one safetensors", "three shards", "shards without an index", "one bin", "bin of before torch 1.6", "two bins"],
)
@pytest.mark.parametrize("family", ["chatglm3", "qwen", "llama"])
def test_every_layout_holds_the_same_tensors(family, layout, models, copied):
    assert same(tensors_of(opened(as_layout(copied(family), layout))), tensors_of(opened(models(family))))


def test_rows_are_read_where_a_family_keeps_them(models):
    """Q, K and V, gate and up are parts of larger matrices in the original layouts."""
    original = all_tensors(models("chatglm3"))
    mine = tensors_of(opened(models("chatglm3")))
    joined = torch.cat([mine[f"model.layers.1.self_attn.{part}_proj.weight"] for part in "qkv"])
    assert torch.equal(joined, original["transformer.encoder.layers.1.self_attention.query_key_value.weight"])
    original = all_tensors(models("qwen"))
    mine = tensors_of(opened(models("qwen")))
    assert torch.equal(mine["model.layers.0.mlp.gate_proj.weight"], original["transformer.h.0.mlp.w2.weight"])
    assert torch.equal(mine["model.layers.0.mlp.up_proj.weight"], original["transformer.h.0.mlp.w1.weight"])


def test_an_older_qwen_configuration_is_the_same_model(models, copied):
    """The first revisions of Qwen-7B-Chat name their sizes otherwise."""
    older = {
        "num_hidden_layers": "n_layer",
        "hidden_size": "n_embd",
        "num_attention_heads": "n_head",
        "vocab_size": "padded_vocab_size",
        "intermediate_size": "ffn_hidden_size",
        "max_position_embeddings": "n_positions",
    }
    folder = copied("qwen")
    config = json.loads((folder / "config.json").read_text("utf-8"))
    (folder / "config.json").write_text(
        json.dumps({older.get(key, key): value for key, value in config.items()}), "utf-8"
    )
    assert opened(folder).decoder == opened(models("qwen")).decoder


def test_baichuan2s_head_has_rows_of_length_one(models):
    head = tensors_of(opened(models("baichuan2")))["lm_head.weight"]
    assert torch.allclose(head.norm(dim=1), torch.ones(len(head)), atol=1e-5)


def test_parts_of_a_tensor_join_to_the_whole(models):
    checkpoint = opened(models("baichuan2"))
    for spec in checkpoint.specs():
        parts = [checkpoint.rows(spec.name, start, min(start + 7, 50)) for start in range(0, min(spec.shape[0], 50), 7)]
        assert torch.equal(torch.cat(parts)[:50], checkpoint.tensor(spec)[: min(spec.shape[0], 50)])


@pytest.mark.parametrize("family", ["llama", "qwen2", "qwen3"])
def test_a_gguf_file_is_the_model_it_was_made_of(family, models, tmp_path):
    folder = models(family)
    converted = opened(tiny_gguf.write(folder, tmp_path / "model.gguf"))
    assert same(tensors_of(converted), tensors_of(opened(folder)))
    assert converted.decoder == opened(folder).decoder
    assert converted.description == "GGUF F32"


@pytest.mark.parametrize("vectors", [False, True])
def test_quantized_gguf_tensors_are_dequantized(vectors, tmp_path):
    folder = tiny_models.standard(tmp_path / "model", "llama", hidden_size=64, intermediate_size=96)
    kind = gguf.GGMLQuantizationType.Q8_0
    checkpoint = opened(tiny_gguf.write(folder, tmp_path / "model.gguf", kind, vectors=vectors))
    assert checkpoint.description == "GGUF Q8_0"
    for name, exact in tensors_of(opened(folder)).items():
        error = (checkpoint.tensor(next(s for s in checkpoint.specs() if s.name == name)) - exact).abs().max()
        assert error <= exact.abs().max() * (1 / 254 + 2**-11)  # half a step, and the scale's rounding to float16


def test_a_split_gguf_is_one_model(models, tmp_path):
    whole = tiny_gguf.write(models("llama"), tmp_path / "whole.gguf")
    shutil.copy(whole, tmp_path / "m-00001-of-00002.gguf")
    with pytest.raises(SourceError, match="m-00002-of-00002.gguf is missing"):
        sources.local(tmp_path / "m-00001-of-00002.gguf")


def test_llama3_scaling_is_recovered_from_a_ggufs_factors(tmp_path):
    scaling = {
        "rope_type": "llama3",
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192,
        "rope_theta": 10000.0,
    }
    folder = tiny_models.standard(tmp_path / "model", "llama", rope_parameters=scaling, head_dim=64, hidden_size=256)
    exact = opened(folder).decoder.rotary
    plain = 1 / 10000.0 ** (np.arange(0, 64, 2) / 64)
    factors = plain / np.array(exact.inverse_frequencies)
    found = opened(tiny_gguf.write(folder, tmp_path / "m.gguf", rope_factors=factors)).decoder.rotary
    assert np.allclose(found.inverse_frequencies, exact.inverse_frequencies, rtol=1e-5)


def test_code_in_a_folder_is_not_run(models, copied, tmp_path):
    folder = copied("chatglm3")
    config = json.loads((folder / "config.json").read_text("utf-8"))
    (folder / "config.json").write_text(
        json.dumps(config | {"auto_map": {"AutoModel": "evil.Model", "AutoTokenizer": ["evil.T", None]}}), "utf-8"
    )
    (folder / "evil.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')", "utf-8")
    assert same(tensors_of(opened(folder)), tensors_of(opened(models("chatglm3"))))
    assert not (tmp_path / "ran").exists()


class Touch:
    """Unpickled, it would create a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


@pytest.mark.parametrize("save", [torch.save, lambda value, path: path.write_bytes(pickle.dumps(value))])
def test_a_pickle_with_code_is_refused_and_not_run(save, copied, tmp_path):
    folder = copied("baichuan2")
    save({"model.norm.weight": Touch(tmp_path / "ran")}, folder / "pytorch_model.bin")
    with pytest.raises(CheckpointError, match="can run code"):
        opened(folder)
    assert not (tmp_path / "ran").exists()


def edit_config(folder: Path, **changes) -> Path:
    config = json.loads((folder / "config.json").read_text("utf-8"))
    (folder / "config.json").write_text(
        json.dumps({k: v for k, v in (config | changes).items() if v != "REMOVED"}), "utf-8"
    )
    return folder


@pytest.mark.parametrize(
    "family, changes, sentence",
    [
        ("llama", {"model_type": "mamba"}, "architecture mamba is not supported. Known: chatglm"),
        ("llama", {"quantization_config": {"quant_method": "gptq"}}, "already quantized .gptq."),
        ("llama", {"hidden_act": "gelu"}, "activation gelu"),
        ("llama", {"hidden_size": "many"}, "does not fit the architecture llama"),
        ("llama", {"num_attention_heads": 0}, "does not fit the architecture llama"),
        ("llama", {"num_hidden_layers": 3}, "model.layers.2.input_layernorm.weight is missing"),
        ("llama", {"num_hidden_layers": 1}, "is not part of the architecture"),
        ("llama", {"intermediate_size": 80}, "does not fit config.json"),
        ("llama", {"vocab_size": 600}, "does not fit config.json"),
        ("llama", {"rope_parameters": {"rope_type": "longrope", "rope_theta": 1e4}}, "longrope"),
        ("chatglm3", {"padded_vocab_size": 151552}, "only ChatGLM3-6B"),
        ("chatglm3", {"ffn_hidden_size": "REMOVED"}, "no ffn_hidden_size"),
        ("chatglm3", {"rmsnorm": False}, "rmsnorm is False"),
        ("baichuan2", {"hidden_size": 5120}, "Baichuan2-13B"),
        ("baichuan2", {"max_position_embeddings": "REMOVED"}, "Baichuan2-13B"),
        ("baichuan2", {"vocab_size": 64000}, "first Baichuan"),
        ("qwen", {"no_bias": False}, "no_bias is False"),
    ],
)
def test_a_configuration_that_cannot_be_used_is_named(family, changes, sentence, copied):
    with pytest.raises(CheckpointError, match=sentence):
        opened(edit_config(copied(family), **changes))


def damage(folder: Path, how: str) -> None:
    first = sorted(folder.glob("*.safetensors"))[0]
    if how == "missing shard":
        sorted(folder.glob("*.safetensors"))[-1].unlink()
    elif how == "truncated":
        first.write_bytes(first.read_bytes()[:-1000])
    elif how == "empty":
        first.write_bytes(b"")
    elif how == "huge header":
        first.write_bytes((1 << 60).to_bytes(8, "little") + first.read_bytes()[8:])
    elif how == "index lists a path outside":
        (folder / "model.safetensors.index.json").write_text('{"weight_map": {"a": "../model.safetensors"}}', "utf-8")
    elif how == "index is no JSON":
        (folder / "model.safetensors.index.json").write_text("{", "utf-8")
    elif how == "config is no JSON":
        (folder / "config.json").write_text("{", "utf-8")
    elif how == "config is a list":
        (folder / "config.json").write_text("[]", "utf-8")
    elif how == "no weights":
        for file in folder.glob("*.safetensors"):
            file.unlink()
    elif how == "nothing at all":
        for file in folder.iterdir():
            file.unlink()
    elif how == "not a number":
        tensors = load_file(first)
        next(iter(tensors.values()))[0] = float("nan")
        save_file(tensors, first)
    elif how == "integers":
        save_file({name: tensor.to(torch.int32) for name, tensor in load_file(first).items()}, first)
    elif how == "the same tensor twice":
        save_file(load_file(first), folder / "model-00009-of-00009.safetensors")
        (folder / "model.safetensors.index.json").unlink()


@pytest.mark.parametrize(
    "how, sentence",
    [
        ("missing shard", "is missing"),
        ("truncated", "damaged or truncated"),
        ("empty", "damaged or truncated"),
        ("huge header", "damaged or truncated"),
        ("index lists a path outside", "is missing"),
        ("index is no JSON", "index.json is damaged"),
        ("config is no JSON", "not valid JSON"),
        ("config is a list", "not valid JSON"),
        ("no weights", "no weights"),
        ("nothing at all", "holds no model"),
        ("not a number", "not finite"),
        ("integers", "stored as I32"),
        ("the same tensor twice", "in two files"),
    ],
)
def test_damage_to_a_folder_is_named(how, sentence, copied):
    folder = copied("chatglm3")
    damage(folder, how)
    with pytest.raises((CheckpointError, SourceError), match=sentence):
        tensors_of(opened(folder))


def test_a_damaged_gguf_is_refused_wherever_it_is_cut(models, tmp_path):
    whole = tiny_gguf.write(models("llama"), tmp_path / "whole.gguf").read_bytes()
    cut = tmp_path / "cut.gguf"
    for length in (4, 23, 24, 100, 1000, 5000, len(whole) // 2, len(whole) - 1):
        cut.write_bytes(whole[:length])
        with pytest.raises(CheckpointError, match="damaged or truncated"):
            opened(cut)


def test_a_gguf_with_random_bytes_in_its_header_is_refused_or_read_but_never_crashes(models, tmp_path):
    whole = bytearray(tiny_gguf.write(models("llama"), tmp_path / "whole.gguf").read_bytes())
    random = np.random.default_rng(0)
    broken = tmp_path / "broken.gguf"
    for _case in range(150):
        content = bytearray(whole)
        for place in random.integers(4, 20000, 6):
            content[place] = random.integers(256)
        broken.write_bytes(content)
        try:
            opened(broken)
        except CheckpointError:
            pass


def test_what_is_no_gguf_is_refused(tmp_path):
    file = tmp_path / "model.gguf"
    file.write_text("hello", "utf-8")
    with pytest.raises(SourceError, match="not a GGUF file"):
        sources.local(file)
