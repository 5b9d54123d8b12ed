"""Kernels compute with the same weights to the last bit, and their products agree within the rounding of activations."""

from dataclasses import replace

import pytest
import torch

from itrex_chat import native
from itrex_chat.foundation.errors import KernelError
from itrex_chat.kernels import KERNELS, choose, why_not_faster
from itrex_chat.kernels.reference import quantize_activations
from itrex_chat.quantization.rtn import quantize_rows
from itrex_chat.quantization.tensor import QuantizedTensor, concatenated, packed_words

SHAPES = [(64, 64, 32), (37, 96, 32), (100, 128, 64), (640, 384, 128), (1, 32, 32), (7, 2048, 128)]
WEIGHTS = [("int4_fullrange", 4), ("int4_clip", 4), ("int8", 8)]


def quantized(rows: int, width: int, group_size: int, weight_dtype: str, scale: float = 0.1) -> QuantizedTensor:
    weight = torch.randn(rows, width, generator=torch.Generator().manual_seed(rows * width)) * scale
    bits = dict(WEIGHTS)[weight_dtype]
    integers, scales = quantize_rows(weight, weight_dtype, group_size)
    return QuantizedTensor(packed_words(integers, bits), scales.half().t().contiguous(), bits, group_size)


def activations(rows: int, width: int) -> torch.Tensor:
    return torch.randn(rows, width, generator=torch.Generator().manual_seed(rows))


def available():
    return [kernel for kernel in KERNELS.values() if kernel.missing() is None]


@pytest.fixture(params=list(KERNELS))
def kernel(request):
    if reason := KERNELS[request.param].missing():
        pytest.skip(reason)
    return KERNELS[request.param]


@pytest.mark.parametrize("compute_dtype", ["int8", "bf16", "fp32"])
@pytest.mark.parametrize("weight_dtype, _bits", WEIGHTS)
@pytest.mark.parametrize("shape", SHAPES)
def test_the_weights_are_the_same_to_the_last_bit(kernel, shape, weight_dtype, _bits, compute_dtype):
    weight = quantized(*shape, weight_dtype)
    assert torch.equal(kernel.pack([weight], compute_dtype).dequantize(), weight.dequantize())


@pytest.mark.parametrize("rows", [1, 2, 5, 33, 70])
@pytest.mark.parametrize("weight_dtype, _bits", WEIGHTS)
@pytest.mark.parametrize("shape", SHAPES)
def test_fp32_activations_give_the_exact_product(kernel, shape, weight_dtype, _bits, rows):
    weight, x = quantized(*shape, weight_dtype), activations(rows, shape[1])
    exact = x.double() @ weight.dequantize().double().t()
    error = (kernel.pack([weight], "fp32").matmul(x) - exact).abs()
    bound = 1e-6 * shape[1] ** 0.5 * (x.abs().double() @ weight.dequantize().abs().double().t()) + 1e-6
    assert (error <= bound).all()


@pytest.mark.parametrize("rows", [1, 5, 70])
@pytest.mark.parametrize("shape", SHAPES)
def test_int8_activations_err_by_at_most_half_a_step_each(kernel, shape, rows):
    """A group's activations are rounded to steps of at most 2·max/254 (or max - min, where both signs share 255 steps):
    the error of a product is at most a step times the sum of the magnitudes of the group's weights."""
    weight, x = quantized(*shape, "int4_fullrange"), activations(rows, shape[1])
    group_size = shape[2]
    exact = x.double() @ weight.dequantize().double().t()
    steps = x.reshape(rows, -1, group_size).abs().amax(-1) / 127
    sums = weight.dequantize().abs().reshape(shape[0], -1, group_size).sum(-1)
    bound = (steps.double() @ sums.double().t()) + 1e-5
    error = (kernel.pack([weight], "int8").matmul(x) - exact).abs()
    assert (error <= bound).all()
    assert error.max() > 0


@pytest.mark.parametrize("rows", [1, 70])
@pytest.mark.parametrize("shape", SHAPES)
def test_bf16_activations_err_by_the_rounding_of_both_factors(kernel, shape, rows):
    weight, x = quantized(*shape, "int4_clip"), activations(rows, shape[1])
    exact = x.double() @ weight.dequantize().double().t()
    bound = 2**-7 * (x.abs().double() @ weight.dequantize().abs().double().t()) + 1e-6
    assert ((kernel.pack([weight], "bf16").matmul(x) - exact).abs() <= bound).all()


@pytest.mark.parametrize("compute_dtype, closeness", [("int8", 0.02), ("bf16", 0.005), ("fp32", 1e-5)])
def test_all_kernels_agree(compute_dtype, closeness):
    weight, x = quantized(640, 384, 32, "int4_fullrange"), activations(9, 384)
    first, *others = [kernel.pack([weight], compute_dtype).matmul(x) for kernel in available()]
    for other in others:
        assert (other - first).norm() <= closeness * first.norm()


@pytest.mark.parametrize("value", [0.0, 1e-30, 6e-5, 1e4])
def test_constant_and_extreme_weights_survive(kernel, value):
    weight = quantized(16, 64, 32, "int4_fullrange", scale=value)
    product = kernel.pack([weight], "fp32").matmul(torch.ones(2, 64))
    assert torch.isfinite(product).all()
    exact = torch.ones(2, 64).double() @ weight.dequantize().double().t()
    assert torch.allclose(product.double(), exact, rtol=1e-4, atol=1e-30 + 1e-4 * value)


@pytest.mark.parametrize("compute_dtype, closeness", [("int8", 0.02), ("bf16", 0.005), ("fp32", 1e-5)])
def test_zero_points_are_taken_off_by_every_kernel(kernel, compute_dtype, closeness):
    weight = quantized(100, 256, 64, "int4_fullrange")
    weight = replace(weight, zeros=torch.arange(16).repeat(25).reshape(4, 100).half())
    packed, x = kernel.pack([weight], compute_dtype), activations(9, 256)
    assert torch.equal(packed.dequantize(), weight.dequantize())
    plain = replace(weight, zeros=None).dequantize()
    scales = weight.scales.float().repeat_interleave(64, 0).t()
    assert torch.allclose(
        weight.dequantize(), plain + scales * (8 - weight.zeros.float().repeat_interleave(64, 0).t()), atol=1e-6
    )
    exact = x @ weight.dequantize().t()
    assert (packed.matmul(x) - exact).norm() <= closeness * exact.norm()


def test_activations_of_zero_give_zero(kernel):
    weight = quantized(64, 64, 32, "int4_fullrange")
    for compute_dtype in ("int8", "bf16", "fp32"):
        assert (kernel.pack([weight], compute_dtype).matmul(torch.zeros(3, 64)) == 0).all()


def test_activation_rounding_is_symmetric_and_uses_the_whole_range():
    integers, scales = quantize_activations(torch.tensor([[-2.0, 1.0, 0.0, 2.0] * 8]), 32)
    assert integers.max() == 127 and integers.min() == -127
    assert torch.allclose(scales, torch.tensor([[2 / 127]]))


def test_stacked_matrices_are_one_matrix():
    parts = [quantized(rows, 96, 32, "int4_fullrange") for rows in (8, 24, 40)]
    joined = concatenated(parts)
    assert torch.equal(joined.dequantize(), torch.cat([part.dequantize() for part in parts]))


def test_the_fastest_kernel_is_chosen_unless_another_is_named(monkeypatch):
    assert choose() is available()[0]
    monkeypatch.setenv("ITREX_CHAT_KERNEL", "reference")
    assert choose().name == "reference"
    monkeypatch.setenv("ITREX_CHAT_KERNEL", "refrence")
    with pytest.raises(KernelError, match="Did you mean reference"):
        choose()


def test_a_kernel_that_cannot_run_says_why(monkeypatch):
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "DEFAULT")
    monkeypatch.setattr(native, "_load", lambda: "no compiler")
    assert choose().name == "reference"
    assert why_not_faster(choose()) == "native: no compiler; ark: the processor has no AVX2"
    with pytest.raises(KernelError, match="no AVX2"):
        choose("ark")
