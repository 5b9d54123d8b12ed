"""Checkpoints that GPTQ, AWQ, AutoRound and compressed-tensors made: their integers become an artifact as they are."""

import json

import gguf
import numpy as np
import packed_checkpoints
import pytest
import tiny_gguf
import tiny_models
import torch
from packed_checkpoints import KINDS, Truth
from safetensors.numpy import load_file, save_file

from itrex_chat import sources
from itrex_chat.artifacts.artifact import Artifact
from itrex_chat.artifacts.obtaining import obtain
from itrex_chat.checkpoints import gguf_blocks, open_checkpoint
from itrex_chat.decoder.model import Decoder
from itrex_chat.engines.native.weights import load_dense, load_quantized
from itrex_chat.foundation.errors import CheckpointError
from itrex_chat.kernels import KERNELS
from itrex_chat.quantization.tensor import packed_zero_points, unpacked_zeros
from itrex_chat.settings import recipe as recipes
from itrex_chat.sources.quantized import method_of


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    return tiny_models.standard(tmp_path_factory.mktemp("packed") / "original", "llama", **packed_checkpoints.WIDE)


@pytest.fixture(scope="module")
def qwen2(tmp_path_factory):
    return tiny_models.standard(tmp_path_factory.mktemp("packed") / "qwen2", "qwen2", **packed_checkpoints.WIDE)


def opened(folder):
    return open_checkpoint(sources.local(folder))


def artifact_of(folder, *settings: str) -> Artifact:
    return obtain(recipes.load(str(folder), settings)).artifact


def logits(decoder: Decoder) -> torch.Tensor:
    ids = list(range(40, 60))
    cache = decoder.new_cache(32)
    cache.begin([len(ids)])
    return decoder.forward(torch.tensor([ids]), cache, all_logits=True)[0].clone()


def check_artifact(artifact: Artifact, truths: dict[str, Truth]) -> None:
    """Its matrices are, integer by integer and scale by scale, those of the checkpoint."""
    for module, truth in truths.items():
        matrix = artifact.matrix(module)
        assert np.array_equal(matrix.integers().numpy().T + 8, truth.integers)
        each = truth.integers.shape[1] // matrix.group_size
        repeated = np.repeat(truth.scales, each // truth.scales.shape[1], 1)
        assert np.array_equal(matrix.scales.numpy().T, repeated)
        assert np.array_equal(matrix.dequantize().numpy(), truth.weights)


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("kind", KINDS)
def test_integers_scales_and_zero_points_become_an_artifact_as_they_are(kind, symmetric, original, tmp_path):
    truths = packed_checkpoints.write(original, tmp_path / "model", kind, symmetric=symmetric)
    artifact = artifact_of(tmp_path / "model", "quantization.head", "none")
    check_artifact(artifact, truths)
    assert artifact.manifest["format"] == (1 if symmetric else 2)
    assert artifact.manifest["source"]["stored"].endswith("INT4 G64")
    for compute, closeness in (("fp32", 1e-4), ("int8", 0.05)):
        quantized = logits(load_quantized(artifact, KERNELS["native"], compute))
        dense = logits(load_dense(opened(tmp_path / "model"), "fp32"))
        assert (quantized - dense).abs().max() <= closeness * dense.abs().max()


@pytest.mark.parametrize("kind", KINDS)
def test_fp32_computes_with_the_dequantized_weights(kind, original, tmp_path):
    truths = packed_checkpoints.write(original, tmp_path / "model", kind, group=32, symmetric=False)
    checkpoint = opened(tmp_path / "model")
    for module, truth in truths.items():
        assert np.array_equal(checkpoint.rows(f"{module}.weight", 0, len(truth.weights)).numpy(), truth.weights)
        assert np.array_equal(checkpoint.rows(f"{module}.weight", 13, 27).numpy(), truth.weights[13:27])


def test_groups_of_a_whole_row_become_smaller_ones_with_the_same_scale(original, tmp_path):
    folder = tmp_path / "model"
    truths = packed_checkpoints.write(original, folder, "compressed-tensors", group=128)
    artifact = artifact_of(folder)
    assert {tuple(kind) for kind in artifact.manifest["matrices"].values()} == {(4, 128), (8, 32)}
    check_artifact(artifact, truths)


def test_a_bias_of_zeros_that_the_architecture_does_not_have_is_none(original, qwen2, tmp_path):
    """AutoGPTQ writes one for every module."""
    truths = packed_checkpoints.write(original, tmp_path / "model", "gptq", bias=True)
    check_artifact(artifact_of(tmp_path / "model"), truths)
    name = "model.layers.0.mlp.down_proj.bias"
    changed(tmp_path / "model", **{name: np.full(128, 0.5, np.float16)})
    with pytest.raises(CheckpointError, match="is not part of the architecture"):
        opened(tmp_path / "model")
    packed_checkpoints.write(qwen2, tmp_path / "qwen2", "awq", symmetric=False)
    assert artifact_of(tmp_path / "qwen2").has("model.layers.0.self_attn.q_proj.bias")


def test_settings_for_rounding_do_not_change_integers_that_are_taken(original, tmp_path):
    truths = packed_checkpoints.write(original, tmp_path / "model", "awq", symmetric=False)
    check_artifact(
        artifact_of(tmp_path / "model", "quantization.weight_dtype", "int4_clip", "quantization.group_size", "128"),
        truths,
    )


def test_new_integers_are_made_of_the_dequantized_weights_where_they_are_asked_for(original, tmp_path):
    packed_checkpoints.write(original, tmp_path / "model", "awq", symmetric=False)
    for settings in (("quantization.integers", "new"), ("quantization.weight_dtype", "int8")):
        artifact = artifact_of(tmp_path / "model", *settings)
        assert artifact.manifest["format"] == 1
        name = "model.layers.1.mlp.up_proj"
        exact = opened(tmp_path / "model").rows(f"{name}.weight", 0, 256)
        assert 0 < (artifact.matrix(name).dequantize() - exact).abs().max() < 0.1


def test_an_order_of_inputs_of_its_own_is_refused_for_int4_and_computed_in_fp32(original, tmp_path):
    truths = packed_checkpoints.write(original, tmp_path / "model", "gptq", shuffled=True)
    with pytest.raises(CheckpointError, match="act-order.*quantize it anew"):
        artifact_of(tmp_path / "model")
    checkpoint = opened(tmp_path / "model")
    for module, truth in truths.items():
        assert np.array_equal(checkpoint.rows(f"{module}.weight", 8, 32).numpy(), truth.weights[8:32])
    assert artifact_of(tmp_path / "model", "quantization.integers", "new")


def test_an_old_checkpoint_has_its_settings_in_a_file_of_their_own(original, tmp_path):
    truths = packed_checkpoints.write(original, tmp_path / "model", "gptq")
    config = json.loads((tmp_path / "model" / "config.json").read_text("utf-8"))
    settings = config.pop("quantization_config")
    (tmp_path / "model" / "config.json").write_text(json.dumps(config), "utf-8")
    (tmp_path / "model" / "quantize_config.json").write_text(
        json.dumps({"bits": 4, "group_size": settings["group_size"]}), "utf-8"
    )
    check_artifact(artifact_of(tmp_path / "model"), truths)


def test_an_artifact_is_a_checkpoint_of_autoround_whose_integers_are_taken_once_more(original, qwen2, tmp_path):
    packed_checkpoints.write(qwen2, tmp_path / "awq", "awq", symmetric=False)
    for folder in (original, tmp_path / "awq"):
        first = artifact_of(folder)
        again = artifact_of(first.folder)
        assert again.manifest["matrices"] == first.manifest["matrices"]
        for name in first.manifest["matrices"]:
            one, other = first.matrix(name), again.matrix(name)
            assert torch.equal(one.qweight, other.qweight) and torch.equal(one.scales, other.scales)
            assert one.zeros is None if other.zeros is None else torch.equal(one.zeros, other.zeros)


def test_groups_that_the_kernels_do_not_read_are_refused_for_int4(original, tmp_path):
    packed_checkpoints.write(original, tmp_path / "model", "gptq", group=16)
    with pytest.raises(CheckpointError, match="groups of 16 inputs.*Quantize it anew"):
        artifact_of(tmp_path / "model")
    assert artifact_of(tmp_path / "model", "quantization.integers", "new")


def changed(folder, **tensors) -> None:
    """The checkpoint with these tensors; None removes one."""
    found = load_file(folder / "model.safetensors") | tensors
    save_file({name: tensor for name, tensor in found.items() if tensor is not None}, folder / "model.safetensors")


DOWN = "model.layers.1.mlp.down_proj"


@pytest.mark.parametrize(
    "kind, tensor, value, sentence",
    [
        ("gptq", "qweight", None, "qzeros is not part of the architecture|is missing"),
        ("gptq", "scales", None, "has no matrix"),
        ("gptq", "qzeros", None, "has no matrix"),
        ("gptq", "qweight", np.zeros((32, 120), np.int32), "does not fit together"),
        ("gptq", "qweight", np.zeros((31, 128), np.int32), "does not fit together"),
        ("gptq", "qweight", np.zeros((32, 128), np.int64), "is stored as int64"),
        ("gptq", "qweight", np.zeros(32, np.int32), "has no matrix"),
        ("gptq", "scales", np.ones((3, 128), np.float16), "does not fit together"),
        ("gptq", "scales", np.ones((0, 128), np.float16), "does not fit together"),
        ("gptq", "scales", np.ones((4, 128), np.int32), "is stored as int32"),
        ("gptq", "scales", np.full((4, 128), np.nan, np.float16), "not all finite"),
        ("gptq", "scales", np.full((4, 128), 1e6, np.float32), "too large for float16 scales"),
        ("gptq", "qzeros", np.zeros((4, 15), np.int32), "does not fit together"),
        ("gptq", "qzeros", np.full((4, 16), -1, np.int32), "read differently, as 0 or as 16"),
        ("gptq", "g_idx", np.full(256, 4, np.int32), "does not fit together"),
        ("gptq", "g_idx", np.full(256, -1, np.int32), "does not fit together"),
        ("gptq", "g_idx", np.zeros(128, np.int32), "does not fit"),
        ("gptq", "g_idx", np.zeros(256, np.float32), "is stored as float32"),
        ("gptq", "g_idx", np.zeros((2, 128), np.int32), "does not fit"),
        ("gptq", "weight", np.zeros((128, 256), np.float32), "does not fit together"),
        ("awq", "qweight", np.zeros((256, 15), np.int32), "does not fit together"),
        ("awq", "qzeros", np.zeros((4, 15), np.int32), "does not fit together"),
        ("compressed-tensors", "weight_packed", np.zeros((128, 31), np.int32), "does not fit together"),
        ("compressed-tensors", "weight_shape", np.array([128, 1 << 60]), "does not fit together"),
        ("compressed-tensors", "weight_shape", np.array([128, 0]), "does not fit together"),
        ("compressed-tensors", "weight_shape", np.array([128.0, 256.0]), "is stored as float64"),
        ("compressed-tensors", "weight_shape", None, "does not fit together"),
        ("compressed-tensors", "weight_scale", np.ones((128, 5), np.float16), "does not fit together"),
        ("compressed-tensors", "weight_zero_point", np.zeros((15, 4), np.int32), "does not fit together"),
    ],
)
def test_a_module_that_does_not_fit_together_is_named_in_a_sentence(kind, tensor, value, sentence, original, tmp_path):
    packed_checkpoints.write(original, tmp_path / "model", kind)
    changed(tmp_path / "model", **{f"{DOWN}.{tensor}": value})
    with pytest.raises(CheckpointError, match=sentence):
        artifact_of(tmp_path / "model")


@pytest.mark.parametrize(
    "settings, sentence",
    [
        ("gptq", r"already quantized \(\?\)"),
        ({"quant_method": "bitsandbytes", "load_in_4bit": True}, "bitsandbytes"),
        ({"quant_method": "gptq", "bits": 3}, "gptq, bits=3"),
        ({"quant_method": "gptq", "bits": 4.0}, "gptq, bits=4.0"),
        ({"quant_method": "gptq", "bits": 4, "checkpoint_format": "marlin"}, "gptq, marlin"),
        ({"quant_method": "awq", "bits": 4, "version": "gemv"}, "awq, gemv"),
        ({"quant_method": "auto-round", "bits": 4, "packing_format": "auto_round:fp8"}, "auto-round, auto_round:fp8"),
        (
            {"quant_method": "auto-round", "bits": 4, "packing_format": "auto_round", "extra_config": [1]},
            "extra_config",
        ),
        (
            {"quant_method": "auto-round", "bits": 4, "packing_format": "auto_round"}
            | {"extra_config": {f"a{number}.*.b": {"bits": 8} for number in range(1001)}},
            "extra_config",
        ),
        ({"quant_method": "compressed-tensors", "format": "float-quantized"}, "float-quantized"),
        ({"quant_method": "compressed-tensors", "format": "pack-quantized", "config_groups": {"a": 1}}, "quantized"),
    ],
)
def test_another_way_of_quantizing_is_refused_with_those_that_are_read(settings, sentence, original, tmp_path):
    packed_checkpoints.write(original, tmp_path / "model", "gptq")
    tensors = load_file(tmp_path / "model" / "model.safetensors")
    packed_checkpoints.save(tmp_path / "model", tensors, settings)
    with pytest.raises(CheckpointError, match=sentence) as told:
        opened(tmp_path / "model")
    assert "GPTQ, AWQ, AutoRound, compressed-tensors" in str(told.value)


@pytest.mark.parametrize(
    "pattern, bits",
    [
        ("model.layers.1.mlp.up_proj", 8),
        (r".*layers\.1\.mlp.*", 8),
        ("model.layers.*.up_proj", 8),
        ("model.layers.1.*", 8),
        (".*", 8),
        ("model.*.layers.*", 8),
        ("model.layers.1.mlp.up_proj*up_proj", 4),
        ("model.layers.[0-9]+.mlp.*", 4),
        ("*a*b*c*d*", 4),
    ],
)
def test_a_pattern_of_modules_is_read_for_its_stars_alone(pattern, bits):
    told = {
        "quant_method": "auto-round",
        "bits": 4,
        "packing_format": "auto_round",
        "extra_config": {pattern: {"bits": 8}},
    }
    assert method_of(told).bits_of("model.layers.1.mlp.up_proj") == bits


@pytest.mark.parametrize("kind", ["gptq", "awq", "compressed-tensors"])
def test_a_truncated_file_is_named(kind, original, tmp_path):
    packed_checkpoints.write(original, tmp_path / "model", kind)
    file = tmp_path / "model" / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-1000])
    with pytest.raises(CheckpointError, match="damaged or truncated"):
        artifact_of(tmp_path / "model")


def in_gguf(original, folder, kind: str):
    """The original as a GGUF file with matrices of this type, and what llama.cpp's own package dequantizes them to."""
    folder.mkdir()
    path = tiny_gguf.write(original, folder / "model.gguf", quantized=gguf.GGMLQuantizationType[kind])
    return path, opened(path)


@pytest.mark.parametrize("kind, bits", [("Q4_0", 4), ("Q4_1", 4), ("Q8_0", 8)])
@pytest.mark.parametrize("model", ["original", "qwen2"])
def test_blocks_of_gguf_become_an_artifact_as_they_are_where_that_is_asked_for(kind, bits, model, request, tmp_path):
    """A llama file has the rows of queries and keys in another order; those of qwen2 are as they were."""
    path, checkpoint = in_gguf(request.getfixturevalue(model), tmp_path / "gguf", kind)
    settings = ["quantization.integers", "stored", "quantization.weight_dtype", {4: "int4_fullrange", 8: "int8"}[bits]]
    artifact = artifact_of(path, *settings)
    taken = [name for name in artifact.manifest["matrices"] if name != "lm_head"]
    assert len(taken) == 14 and artifact.manifest["taken"] == 15
    assert {tuple(artifact.manifest["matrices"][name]) for name in taken} == {
        (bits, 32, "zeros") if kind == "Q4_1" else (bits, 32)
    }
    for name in taken:
        weights = checkpoint.rows(
            f"{name}.weight", 0, checkpoint._storage.shapes[checkpoint._origins[f"{name}.weight"].tensor][0]
        )
        scale = weights.abs().max()
        assert (artifact.matrix(name).dequantize() - weights).abs().max() <= (scale * 2**-11 if kind == "Q4_1" else 0)


def test_a_gguf_file_is_rounded_anew_unless_its_integers_are_asked_for(original, tmp_path):
    path, checkpoint = in_gguf(original, tmp_path / "gguf", "Q4_1")
    artifact = artifact_of(path)
    assert artifact.manifest["format"] == 1 and "taken" not in artifact.manifest
    with pytest.raises(CheckpointError, match="has no integers of 8 bits"):
        artifact_of(path, "quantization.integers", "stored", "quantization.weight_dtype", "int8")


def test_a_block_without_a_scale_is_its_minimum():
    """Of Q4_1: n · 0 + m; and n · d + m where d is lost beside m."""
    halves = np.array([[0.0, 0.5], [6e-8, 1.0], [0.1, -0.8]], np.float16).view(np.uint8).reshape(3, 4)
    raw = np.concatenate([halves, np.full((3, 16), 0x72, np.uint8)], 1)
    found = gguf_blocks.KINDS[3].integers(raw.reshape(-1), 3).dequantize()
    exact = torch.from_numpy(gguf.dequantize(raw, gguf.GGMLQuantizationType.Q4_1).copy())
    assert (found - exact).abs().max() <= 2**-11


def test_zero_points_pack_and_unpack_to_themselves():
    zeros = torch.randint(0, 16, (3, 37), dtype=torch.uint8)
    assert torch.equal(unpacked_zeros(packed_zero_points(zeros), 37), zeros.half())
