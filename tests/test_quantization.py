"""What quantization does to each tensor, in slabs and in numbers."""

import pytest
import tiny_models
import torch

from itrex_chat import sources
from itrex_chat.checkpoints import open_checkpoint
from itrex_chat.foundation.errors import CheckpointError
from itrex_chat.quantization import stream
from itrex_chat.quantization.plan import plan, shards
from itrex_chat.quantization.rtn import fitting_group_size, quantize_rows
from itrex_chat.quantization.statistics import summarize
from itrex_chat.quantization.tensor import QuantizedTensor, packed_words, packed_zeros
from itrex_chat.settings.quantization import Quantization


class Bar:
    n = 0

    def update(self, count):
        self.n += count


@pytest.fixture
def checkpoint(models):
    return open_checkpoint(sources.local(models("chatglm3")))


def by_name(treatments) -> dict:
    return {treatment.spec.name: treatment for treatment in treatments}


@pytest.mark.parametrize("bits", [4, 8])
def test_packing_and_unpacking_integers_changes_nothing(bits):
    low = -(1 << (bits - 1))
    integers = torch.randint(low, -low, (24, 64), dtype=torch.int8)
    packed = QuantizedTensor(packed_words(integers, bits), torch.ones(2, 24, dtype=torch.float16), bits, 32)
    assert torch.equal(packed.integers().t(), integers)
    assert (packed.in_features, packed.out_features) == (64, 24)


def test_words_are_in_gptqs_order():
    """Input i of an output is in the bits 4·(i mod 8) of word i // 8, as integer + 8."""
    integers = torch.arange(-8, 8, dtype=torch.int8).reshape(1, 16)
    first, second = packed_words(integers, 4)[:, 0].tolist()
    assert first & 0xFFFFFFFF == 0x76543210
    assert second & 0xFFFFFFFF == 0xFEDCBA98


def test_zero_points_are_stored_minus_one():
    assert packed_zeros(3, 16, 4).shape == (3, 2)
    assert packed_zeros(1, 8, 4)[0, 0].item() & 0xFFFFFFFF == 0x77777777
    assert packed_zeros(1, 4, 8)[0, 0].item() & 0xFFFFFFFF == 0x7F7F7F7F


def test_fullrange_keeps_the_largest_weight_of_a_group_exactly():
    weight = torch.randn(8, 64)
    integers, scales = quantize_rows(weight.clone(), "int4_fullrange", 32)
    groups, whole = weight.reshape(16, 32), (integers.reshape(16, 32) * scales.reshape(16, 1))
    largest = groups.abs().argmax(1)
    assert torch.allclose(whole.gather(1, largest[:, None]), groups.gather(1, largest[:, None]), rtol=1e-6)
    assert (scales > 0).any() and (scales < 0).any()


def test_int8_errs_by_at_most_half_a_step():
    weight = torch.randn(8, 64)
    integers, scales = quantize_rows(weight.clone(), "int8", 32)
    error = (integers * scales.repeat_interleave(32, 1) - weight).abs()
    assert (error <= scales.repeat_interleave(32, 1) / 2 + 1e-7).all()


def test_a_tensor_read_in_slabs_is_quantized_as_a_whole_one(checkpoint, monkeypatch):
    treatment = by_name(plan(checkpoint, Quantization()))["model.layers.0.mlp.gate_up_proj.weight"]
    at_once = stream.artifact_tensors(checkpoint, treatment, Bar())
    monkeypatch.setattr(stream, "SLAB", 8 * 64)
    in_slabs = stream.artifact_tensors(checkpoint, treatment, Bar())
    assert all(torch.equal(at_once[name], in_slabs[name]) for name in at_once)


def test_every_matrix_of_the_blocks_is_quantized_and_nothing_else(checkpoint):
    for treatment in plan(checkpoint, Quantization()):
        assert (treatment.bits == 4) == (treatment.spec.role == "linear")
        assert (treatment.bits == 8) == (treatment.spec.role == "head")
        if treatment.spec.role == "embedding":
            assert treatment.dtype == torch.float16


@pytest.mark.parametrize("head, bits", [("int8", 8), ("int4", 4), ("none", None)])
def test_the_head_is_treated_as_the_recipe_says(checkpoint, head, bits):
    assert by_name(plan(checkpoint, Quantization(head=head)))["lm_head.weight"].bits == bits


@pytest.mark.parametrize(
    "width, wanted, found",
    [(4096, 128, 128), (13696, 128, 128), (96, 64, 32), (96, 32, 32), (192, 128, 64), (48, 32, None)],
)
def test_the_largest_group_that_divides_the_width_is_taken(width, wanted, found):
    assert fitting_group_size(width, wanted) == found


def test_smaller_groups_are_recorded(checkpoint):
    treatments = plan(checkpoint, Quantization(group_size=64))
    statistics = summarize(treatments, 64, 1, 0.0, 0)
    assert statistics.regrouped == {f"model.layers.{n}.mlp.down_proj": 32 for n in range(2)}
    assert statistics.linear == {"INT4 G64": 10, "INT4 G32": 2, "INT8 G64": 1}


def test_a_matrix_that_no_group_fits_is_kept(tmp_path):
    folder = tiny_models.standard(tmp_path / "model", "llama", intermediate_size=40)
    treatment = by_name(plan(open_checkpoint(sources.local(folder)), Quantization()))[
        "model.layers.0.mlp.down_proj.weight"
    ]
    assert treatment.bits is None


def test_sizes_are_planned_to_the_byte(checkpoint):
    for quantization in (Quantization(), Quantization("int8", 64, "none")):
        for treatment in plan(checkpoint, quantization):
            stored = stream.artifact_tensors(checkpoint, treatment, Bar())
            assert sum(tensor.nbytes for tensor in stored.values()) == treatment.nbytes()


def test_shards_hold_everything_once_and_in_order(checkpoint, monkeypatch):
    monkeypatch.setattr("itrex_chat.quantization.plan.SHARD", 20_000)
    treatments = plan(checkpoint, Quantization())
    parts = shards(treatments)
    assert len(parts) > 3
    assert [treatment for part in parts for treatment in part] == treatments


def test_weights_too_large_for_float16_scales_are_refused(tmp_path):
    from safetensors.torch import load_file, save_file

    folder = tiny_models.standard(tmp_path / "model", "llama")
    tensors = load_file(folder / "model.safetensors")
    tensors["model.layers.0.mlp.up_proj.weight"][0, 0] = 1e7
    save_file(tensors, folder / "model.safetensors")
    checkpoint = open_checkpoint(sources.local(folder))
    treatment = by_name(plan(checkpoint, Quantization()))["model.layers.0.mlp.up_proj.weight"]
    with pytest.raises(CheckpointError, match="too large"):
        stream.artifact_tensors(checkpoint, treatment, Bar())


def test_the_line_and_the_table_say_what_happened(checkpoint):
    statistics = summarize(plan(checkpoint, Quantization()), 32, 17_000_000, 12.3, 700_000_000)
    assert "17 MB before" in statistics.line() and "12.3 s" in statistics.line() and "700 MB" in statistics.line()
    table = statistics.table()
    assert "Mixed Precision Statistics" in table
    assert "13" in table and "12" in table and "INT4 G32" in table
    assert len({len(line) for line in table.splitlines()}) == 1
