"""The native kernels with every set of instructions that this processor has: the same products, whatever the shape.

Bounds: a float32 operation errs by at most UNIT = 2^-24 of its result. A sum
of n terms, added in any order, errs by at most n · UNIT of the sum of the
terms' magnitudes, to first order; SLACK covers the higher ones.
"""

import functools
import threading
from dataclasses import replace

import pytest
import torch
from native_cases import FORMATS, OUTPUTS, ROWS, UNIT, activations, bit_equal, matrix, packed, use, with_zeros

from itrex_chat import native
from itrex_chat.foundation.errors import KernelError
from itrex_chat.kernels import KERNELS
from itrex_chat.kernels.reference import quantize_activations
from itrex_chat.quantization.tensor import QuantizedTensor, concatenated

SLACK = 1.01
SMALLEST = 2.0**-126  # normal float32; BF16 instructions take and give 0 for what is smaller


def rounded_magnitudes(
    compute: str, weight: QuantizedTensor, x: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, int]:
    """The product of the rounded factors in float64, the sum of its terms' magnitudes, and the roundings of a float32 sum."""
    w = weight.dequantize().double()
    if compute == "int8":
        # A group's sum is an exact integer below 2^24: a conversion, two scales, and one addition for each group are rounded.
        integers, scales = quantize_activations(x, weight.group_size)
        x = (integers.double() * scales.double()[..., None]).flatten(1)
        groups = torch.stack(
            [part @ of.t() for part, of in zip(x.split(weight.group_size, 1), w.split(weight.group_size, 1))]
        )
        return groups.sum(0), groups.abs().sum(0), len(groups) + 3
    if compute == "bf16":
        # Products of two bfloat16 are exact in float32.
        x, w = x.bfloat16().double(), w.float().bfloat16().double()
        return x @ w.t(), x.abs() @ w.abs().t(), weight.in_features
    # A product, the additions, and a group's scale where it multiplies the sum.
    x = x.double()
    return x @ w.t(), x.abs() @ w.abs().t(), weight.in_features + 2


def rounding(level: str, compute: str, rows: int) -> str:
    """What a product rounds its factors to: tiles take many rows in BF16 where INT8 would do."""
    return "bf16" if level == "amx" and compute == "int8" and rows > native.FEW_ROWS else compute


def bound(
    compute: str, weight: QuantizedTensor, x: torch.Tensor, magnitudes: torch.Tensor, roundings: int
) -> torch.Tensor:
    """How far a float32 product may be from the exact one. Below the normal numbers the error is absolute."""
    tiny = torch.tensor(weight.in_features * 2.0**-149, dtype=torch.float64)
    if compute == "bf16":
        tiny = SMALLEST * (
            weight.in_features + x.abs().double().sum(1)[:, None] + weight.dequantize().abs().double().sum(1)
        )
    return SLACK * (roundings * UNIT * magnitudes + tiny)


@functools.cache
def expected(outputs: int, inputs: int, group: int, bits: int, compute: str):
    """A matrix, 70 rows, their product and how far it may be off."""
    weight, x = matrix(outputs, inputs, group, bits), activations(max(ROWS), inputs)
    exact, magnitudes, roundings = rounded_magnitudes(compute, weight, x)
    return weight, x, exact, bound(compute, weight, x, magnitudes, roundings)


@pytest.mark.parametrize("bits, group, compute", FORMATS)
def test_products_equal_the_definition_for_any_outputs_and_rows(level, bits, group, compute):
    for number, outputs in enumerate(OUTPUTS):
        shape = outputs, group * (1, 3, 5)[number % 3], group, bits
        weight, x, exact, allowed = expected(*shape, compute)
        ours, definition = packed(weight, compute), KERNELS["reference"].pack([weight], compute)
        assert ((definition.matmul(x).double() - exact).abs() <= allowed).all()
        for rows in ROWS:
            _weight, x, exact, allowed = expected(*shape, rounding(level, compute, rows))
            error = (ours.matmul(x[:rows]).double() - exact[:rows]).abs()
            assert (error <= allowed[:rows]).all(), f"{outputs} outputs, {rows} rows: {error.max()}"


@pytest.mark.parametrize("bits, group", [(4, 32), (4, 128), (8, 64)])
def test_int8_activations_cost_at_most_half_a_step_each(level, bits, group):
    """An activation in a group of largest magnitude m errs by half of the step m/127, and by the rounding of its quotient
    (at most 127 · 2 UNIT steps); a group below the normal numbers becomes zeros and errs by no more than SMALLEST · 127."""
    weight, x = matrix(100, 5 * group, group, bits), activations(33, 5 * group)
    w = weight.dequantize().double()
    steps = x.double().reshape(33, 5, group).abs().amax(-1) / 127
    sums = w.abs().reshape(100, 5, group).sum(-1)
    _exact, magnitudes, roundings = rounded_magnitudes("int8", weight, x)
    allowed = ((0.5 + 256 * UNIT) * steps + 127 * SMALLEST) @ sums.t() + bound("int8", weight, x, magnitudes, roundings)
    for rows in (1, 8, 33) if level != "amx" else (1, 8, 16):
        error = (packed(weight, "int8").matmul(x[:rows]).double() - x[:rows].double() @ w.t()).abs()
        assert (error <= allowed[:rows]).all()
        assert error.max() > 0


EXTREMES = {
    "zeros": 0.0,
    "the smallest float16": 2.0**-24,
    "subnormal float16": -3.1e-6,
    "the largest float16": 65504.0,
    "the largest negative float16": -65504.0,
}


@pytest.mark.parametrize("magnitude", [0.0, 1e-45, 1e-38, 1e-36, 1e-30, 1e28])
@pytest.mark.parametrize("scale", EXTREMES.values(), ids=EXTREMES)
def test_extreme_scales_and_activations_keep_the_bounds(level, scale, magnitude):
    for bits, compute in ((4, "int8"), (8, "int8"), (4, "bf16"), (8, "fp32")):
        weight, x = matrix(17, 96, 32, bits, scale), activations(18, 96) * magnitude
        for rows in (1, 5, 18):
            rounded = rounding(level, compute, rows)
            exact, magnitudes, roundings = rounded_magnitudes(rounded, weight, x)
            allowed = bound(rounded, weight, x, magnitudes, roundings)
            error = (packed(weight, compute).matmul(x[:rows]).double() - exact[:rows]).abs()
            assert (error <= allowed[:rows]).all(), f"{bits} bits, {compute}, {rows} rows"


@pytest.mark.parametrize("compute", ["int8", "bf16", "fp32"])
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
def test_a_row_that_is_not_finite_keeps_that_to_itself(level, bad, compute):
    """INT8 rounds a whole group by its largest magnitude, so that all outputs become NaN; other formats may keep a sign."""
    for bits in (4, 8):
        weight = packed(matrix(33, 96, 32, bits), compute)
        for rows in (2, 9, 16, 18, 33):
            x = activations(rows, 96)
            x[1] = 0
            clean = weight.matmul(x)
            x[1, 37] = bad
            spoiled = weight.matmul(x)
            others = torch.arange(rows) != 1
            assert bit_equal(spoiled[others], clean[others])
            assert not spoiled[1].isfinite().any()
            assert rounding(level, compute, rows) != "int8" or spoiled[1].isnan().all()


@pytest.mark.parametrize("bits, group", [(4, 32), (4, 64), (4, 128), (8, 32), (8, 64), (8, 128)])
def test_the_weights_are_the_same_to_the_last_bit(level, bits, group):
    halves = torch.arange(-0x8000, 0x8000, 97, dtype=torch.int32).to(torch.int16).view(torch.float16)
    scales = halves[halves.isfinite()][:600].reshape(6, 100)
    for outputs in OUTPUTS:
        weight = matrix(outputs, 6 * group, group, bits, scales[:, :outputs].float())
        assert bit_equal(packed(weight, "int8").dequantize(), weight.dequantize())


def test_scales_that_are_not_finite_make_weights_that_are_not(level):
    for value in (float("inf"), float("-inf"), float("nan")):
        weight = matrix(17, 64, 32, 4, value)
        assert bit_equal(packed(weight, "fp32").dequantize(), weight.dequantize())
        assert not packed(weight, "int8").matmul(torch.ones(3, 64)).isfinite().any()


@pytest.mark.parametrize("sizes", [(1, 1), (7, 9), (16, 16), (5, 16, 30, 1), (100, 33, 40)])
@pytest.mark.parametrize("bits", [4, 8])
def test_parts_of_any_size_are_one_matrix(level, sizes, bits):
    parts = [matrix(outputs, 192, 64, bits) for outputs in sizes]
    whole, together = concatenated(parts), KERNELS["native"].pack(parts, "int8")
    assert together.out_features == sum(sizes)
    assert bit_equal(together.dequantize(), whole.dequantize())
    for rows in (1, 20):
        x = activations(rows, 192)
        assert bit_equal(together.matmul(x), packed(whole, "int8").matmul(x))


@pytest.mark.parametrize("outputs", [32, 64, 160, 50, 16])
@pytest.mark.parametrize("bits, compute", [(4, "int8"), (8, "int8"), (4, "bf16")])
def test_a_gated_product_is_swiglu_of_the_product(level, outputs, bits, compute):
    weight, bias = packed(matrix(outputs, 192, 32, bits), compute), torch.linspace(-1, 1, outputs)
    for rows in (17, 18, 40):
        x, gate_up, gated = activations(rows, 192), torch.empty(rows, outputs), torch.empty(rows, outputs // 2)
        weight.gated(x, bias, gate_up, gated)
        gate, up = weight.matmul(x, bias).chunk(2, 1)
        assert torch.allclose(gated, torch.nn.functional.silu(gate) * up, rtol=1e-5, atol=1e-6)


@functools.cache
def expected_with_zeros(outputs: int, group: int, compute: str):
    """As `expected`; the bounds are those of the weights' and the zero points' products, which a kernel may add up apart."""
    weight, x = with_zeros(matrix(outputs, 3 * group, group, 4)), activations(70, 3 * group)
    exact, magnitudes, roundings = rounded_magnitudes(compute, weight, x)
    parts = [replace(weight, zeros=None), replace(weight, qweight=torch.full_like(weight.qweight, -0x77777778))]
    magnitudes = magnitudes + sum(rounded_magnitudes(compute, part, x)[1] for part in parts)
    return weight, x, exact, bound(compute, weight, x, magnitudes, roundings + 2)


@pytest.mark.parametrize("group, compute", [(32, "int8"), (128, "int8"), (64, "bf16"), (64, "fp32")])
def test_zero_points_are_taken_off_for_any_outputs_and_rows(level, group, compute):
    for outputs in (17, 64):
        weight, x, _exact, _allowed = expected_with_zeros(outputs, group, compute)
        ours = packed(weight, compute)
        assert bit_equal(ours.dequantize(), weight.dequantize())
        for rows in (1, 2, 5, 16, 17, 70):
            _weight, x, exact, allowed = expected_with_zeros(outputs, group, rounding(level, compute, rows))
            error = (ours.matmul(x[:rows]).double() - exact[:rows]).abs()
            assert (error <= allowed[:rows]).all(), f"{outputs} outputs, {rows} rows: {error.max()}"
        alone = torch.cat([ours.matmul(x[row : row + 1]) for row in range(native.FEW_ROWS)])
        assert bit_equal(ours.matmul(x[: native.FEW_ROWS]), alone)


def test_a_gated_product_with_zero_points_is_swiglu_of_the_product(level):
    weight = packed(with_zeros(matrix(64, 192, 32, 4)), "int8")
    x, gate_up, gated = activations(40, 192), torch.empty(40, 64), torch.empty(40, 32)
    weight.gated(x, None, gate_up, gated)
    gate, up = weight.matmul(x).chunk(2, 1)
    assert torch.allclose(gated, torch.nn.functional.silu(gate) * up, rtol=1e-5, atol=1e-6)


def test_matrices_with_and_without_zero_points_are_not_packed_as_one():
    weight = matrix(32, 64, 32, 4)
    with pytest.raises(KernelError, match="does not have groups"):
        KERNELS["native"].pack([weight, with_zeros(weight)], "int8")


def test_columns_of_a_wider_matrix_are_packed_where_they_lie(level):
    wide = matrix(100, 96, 32, 4)
    for start, stop in ((0, 100), (3, 20), (17, 33), (99, 100)):
        part = wide.columns(start, stop)
        assert bit_equal(packed(part, "int8").dequantize(), wide.dequantize()[start:stop])


@pytest.mark.parametrize("bits, group, compute", FORMATS)
def test_a_row_does_not_depend_on_the_other_rows_of_a_few(level, bits, group, compute):
    weight, x = packed(matrix(33, 3 * group, group, bits), compute), activations(native.FEW_ROWS, 3 * group)
    alone = torch.cat([weight.matmul(x[row : row + 1]) for row in range(native.FEW_ROWS)])
    for rows in range(2, native.FEW_ROWS + 1):
        assert bit_equal(weight.matmul(x[:rows]), alone[:rows])


@pytest.mark.parametrize("bits, group, compute", FORMATS)
def test_products_do_not_depend_on_the_number_of_threads(level, bits, group, compute, threads):
    weight = matrix(333, 3 * group, group, bits)
    for rows in (1, 9, 40):
        x, answers = activations(rows, 3 * group), []
        for count in (1, 2, 3):
            threads(count)
            answers.append(packed(weight, compute).matmul(x))
        assert bit_equal(answers[0], answers[1]) and bit_equal(answers[0], answers[2])


def test_a_matrix_that_its_groups_do_not_divide_is_refused():
    weight = matrix(16, 96, 32, 4)
    with pytest.raises(KernelError, match="A matrix of 96 inputs does not have groups of 64"):
        packed(QuantizedTensor(weight.qweight, weight.scales, 4, 64), "int8")


def test_unknown_instructions_are_refused_with_the_known_ones(monkeypatch):
    if reason := native.missing():
        pytest.skip(reason)
    with monkeypatch.context() as here:
        with pytest.raises(KernelError, match="Did you mean avx512"):
            use("avx521", here)
        with pytest.raises(KernelError, match="portable, avx2, avx_vnni, avx512, amx"):
            use("neon", here)
    assert native.instructions() in native.INSTRUCTIONS


def test_instructions_are_chosen_while_others_compute_without_passing_through_what_the_processor_lacks():
    """The choice counted down from AMX in what all passes read: another thread's pass met an unknown instruction."""
    if reason := native.missing():
        pytest.skip(reason)
    library, seen, done = native.library(), set(), threading.Event()
    best = native.instructions()

    def watch():
        while not done.is_set():
            seen.add(library.itrex_level().decode())

    watchers = [threading.Thread(target=watch) for _watcher in range(2)]
    for watcher in watchers:
        watcher.start()
    for _choice in range(20_000):
        library.itrex_choose(b"")
    done.set()
    for watcher in watchers:
        watcher.join()
    native.instructions()
    assert seen == {best}


def test_instructions_that_the_processor_lacks_are_refused_with_a_sentence(monkeypatch):
    if reason := native.missing():
        pytest.skip(reason)
    with monkeypatch.context() as here:
        refused = 0
        for name in native.INSTRUCTIONS:
            try:
                use(name, here)
                assert native.library().itrex_level().decode() == name
            except KernelError as error:
                assert str(error) == (
                    f"This processor does not have the instructions {name} that ITREX_CHAT_INSTRUCTIONS asks for."
                )
                refused += 1
    assert native.instructions() in native.INSTRUCTIONS
    if not refused:
        pytest.skip("this processor has all the instructions")
