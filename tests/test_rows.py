"""A row of a product is what it is alone, bit for bit, among as many others as a linear layer says (`independent_rows`)."""

import pytest
import torch
from native_cases import FORMATS, activations, bit_equal, matrix, packed

from itrex_chat import native
from itrex_chat.decoder.linear import SOME_ROWS, DenseLinear, Linear, QuantizedLinear, StackedLinear
from itrex_chat.kernels import KERNELS

STORED = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
MANY = (2, 3, 4, 5, 8, 9, 16, 17, 33, 48, 70)


def holds(linear: Linear, inputs: int, threads) -> None:
    """Rows among others, with one thread and with two, are those that are computed alone."""
    most = linear.independent_rows
    counts = [count for count in MANY if most is None or count <= most]
    x = activations(max(counts), -(-inputs // 32) * 32)[:, :inputs].contiguous()
    threads(1)
    alone = torch.cat([linear(row[None]) for row in x])
    for number in (1, 2):
        threads(number)
        for count in counts:
            first = (len(x) - count) // 2  # among other neighbours, at another place
            assert bit_equal(linear(x[first : first + count]), alone[first : first + count]), f"{count} rows"


@pytest.mark.parametrize("bits, group, compute", FORMATS)
def test_rows_of_quantized_matrices_do_not_depend_on_the_others(level, bits, group, compute, threads):
    outputs = 33
    linear = QuantizedLinear(packed(matrix(outputs, 3 * group, group, bits), compute), torch.linspace(-1, 1, outputs))
    assert linear.independent_rows == (native.FEW_ROWS if level == "amx" and compute != "fp32" else None)
    holds(linear, 3 * group, threads)


@pytest.mark.parametrize("compute", ["fp32", "bf16"])
@pytest.mark.parametrize("stored", STORED)
@pytest.mark.parametrize("outputs, inputs", [(1, 1), (17, 33), (75, 1100)])
def test_rows_of_matrices_of_floats_do_not_depend_on_some_others(level, stored, compute, outputs, inputs, threads):
    if compute == "bf16" and stored != "bf16":
        pytest.skip("computed in FP32 alone")
    weight = torch.randn(outputs, inputs, generator=torch.Generator().manual_seed(inputs)).to(STORED[stored])
    for bias in (None, torch.linspace(-1, 1, outputs)):
        linear = DenseLinear(weight, bias, compute)
        assert linear.independent_rows == (SOME_ROWS if compute == "fp32" else native.FEW_ROWS)
        holds(linear, inputs, threads)


def test_tiny_scales_and_activations_keep_even_the_sign_of_zero(level, threads):
    """Products that come to less than any number: some rows had -0 where many had 0."""
    for outputs in (16, 33):
        linear = QuantizedLinear(packed(matrix(outputs, 96, 32, 4, -(2.0**-24)), "int8"))
        most = linear.independent_rows or 70
        x = activations(most, 96).abs() * 1e-36
        assert bit_equal(linear(x), torch.cat([linear(row[None]) for row in x]))


def test_a_layer_of_parts_has_the_least_of_their_numbers(level):
    quantized = QuantizedLinear(packed(matrix(16, 64, 32, 4), "int8"))
    dense = DenseLinear(torch.ones(3, 64))
    assert StackedLinear((quantized, quantized)).independent_rows == quantized.independent_rows
    assert StackedLinear((quantized, dense)).independent_rows == min(quantized.independent_rows or 99, SOME_ROWS)


def test_other_kernels_vouch_for_one_row():
    for name in ("reference", "ark"):
        if KERNELS[name].missing() is None:
            assert QuantizedLinear(KERNELS[name].pack([matrix(16, 64, 32, 4)], "int8")).independent_rows == 1
