"""A decoder's pass with the native kernels computes what the decoder computes in PyTorch, whatever the instructions and threads."""

import dataclasses
from functools import partial

import pytest
import tiny_models
import torch
from native_cases import bit_equal, matrix

from itrex_chat import native, sources
from itrex_chat.artifacts import obtain
from itrex_chat.checkpoints import open_checkpoint
from itrex_chat.decoder.linear import DenseLinear, Linear, QuantizedLinear, StackedLinear, parts_of
from itrex_chat.decoder.model import Chunk, Decoder
from itrex_chat.decoder.pages import Pages
from itrex_chat.engines.native.weights import load_dense, load_quantized
from itrex_chat.kernels import KERNELS
from itrex_chat.settings import recipe as recipes

ODD = {"hidden_size": 72, "intermediate_size": 100, "head_dim": 20, "vocab_size": 645}  # whole vectors of no level
ARCHITECTURES = {
    "llama": ("llama", {}),
    "llama of odd sizes": ("llama", ODD),
    "llama with six heads that share keys": (
        "llama",
        {"hidden_size": 96, "num_attention_heads": 6, "num_key_value_heads": 1, "head_dim": 24},
    ),
    "llama with biases everywhere": ("llama", {"attention_bias": True, "mlp_bias": True}),
    "mistral with a window": ("mistral", {"sliding_window": 8}),
    "qwen2 with windows in some layers": (
        "qwen2",
        {"use_sliding_window": True, "sliding_window": 70, "max_window_layers": 1},
    ),
    "qwen3": ("qwen3", {}),
    "glm": ("glm", {}),
    "glm4": ("glm4", {}),
    "qwen with log-n attention and NTK": ("qwen", {}),
}
SUMS = 3e-5  # float32 sums in another order
ROUNDED = 0.06  # an activation near the middle of two integers, or of two bfloat16, goes either way
# Architecture, settings of the artifact (None: dense), compute dtype or variant, and how far logits may be apart.
VARIANTS = {
    **{f"{name}, fp32": (name, None, "fp32", SUMS) for name in ARCHITECTURES},
    "llama, bf16": ("llama", None, "bf16", ROUNDED),
    "llama of odd sizes, bf16": ("llama of odd sizes", None, "bf16", ROUNDED),
    "glm4, bf16": ("glm4", None, "bf16", ROUNDED),
    "llama, int4": ("llama", (), "fp32", SUMS),
    "llama, int4 with int8 activations": ("llama", (), "int8", ROUNDED),
    "llama, int4 with bf16 activations": ("llama", (), "bf16", ROUNDED),
    "llama with biases everywhere, int8": (
        "llama with biases everywhere",
        ("quantization.weight_dtype", "int8"),
        "fp32",
        SUMS,
    ),
    "glm4, int4 with int8 activations": ("glm4", (), "int8", ROUNDED),
    "qwen3, a head that is not quantized": ("qwen3", ("quantization.head", "none"), "fp32", SUMS),
    "mistral, groups of 64": ("mistral with a window", ("quantization.group_size", "64"), "fp32", SUMS),
    "qwen, int4": ("qwen with log-n attention and NTK", (), "fp32", SUMS),
}
CAPACITY = 320


@pytest.fixture(scope="module")
def decoders(tmp_path_factory):
    """A function that makes a variant once: its decoder with the native kernels, and the same in PyTorch alone."""
    folders, made = {}, {}

    def make(name: str) -> tuple[Decoder, Decoder]:
        architecture, settings, compute, _tolerance = VARIANTS[name]
        if architecture not in folders:
            family, changes = ARCHITECTURES[architecture]
            folder = tmp_path_factory.mktemp("model") / family
            folders[architecture] = (
                tiny_models.qwen(folder, **changes)
                if family == "qwen"
                else tiny_models.standard(folder, family, **changes)
            )
        if name not in made:
            if settings is None:
                ours = load_dense(open_checkpoint(sources.local(folders[architecture])), compute)
                theirs = dataclasses.replace(ours, native_pass=None)
            else:
                recipe = recipes.load(str(folders[architecture]), list(settings))
                artifact = obtain(recipe, tmp_path_factory.mktemp("cache")).artifact
                ours, theirs = (
                    load_quantized(artifact, KERNELS[kernel], compute) for kernel in ("native", "reference")
                )
            assert ours.native_pass and not theirs.native_pass
            made[name] = ours, theirs
        return made[name]

    if reason := native.missing():
        pytest.skip(reason)
    return make


def tokens(count: int, seed: int = 0) -> list[int]:
    return torch.randint(3, 600, (count,), generator=torch.Generator().manual_seed(seed)).tolist()


def conversation(decoder: Decoder) -> torch.Tensor:
    """Logits of a text read in passes of many rows, of a few and of one, from the start and behind other tokens."""
    ids, at, out = tokens(CAPACITY), 0, []
    cache = decoder.new_cache(CAPACITY)
    cache.begin([64])
    for count in (3, 17, 1, 16, 30, 2, 200, 4, 1, 45, 1):
        part = ids[at : at + count]
        if count == 1:
            out.append(decoder.decode(part, cache).clone())
        else:
            out.append(decoder.forward(torch.tensor([part]), cache, all_logits=True)[0])
        at += count
    assert at == CAPACITY
    return torch.cat(out)


def apart(ours: torch.Tensor, theirs: torch.Tensor) -> float:
    """How far the logits of a row are apart at most, as a part of their norm."""
    return float(((ours - theirs).norm(dim=-1) / theirs.norm(dim=-1)).max())


@pytest.fixture(scope="module")
def in_pytorch(decoders):
    """The conversation's logits in PyTorch, computed once."""
    made = {}

    def make(name: str) -> torch.Tensor:
        if name not in made:
            made[name] = conversation(decoders(name)[1])
        return made[name]

    return make


@pytest.mark.parametrize("variant", VARIANTS)
def test_passes_of_any_number_of_rows_equal_pytorch(level, variant, decoders, in_pytorch):
    assert apart(conversation(decoders(variant)[0]), in_pytorch(variant)) <= VARIANTS[variant][3]


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_batch_of_different_lengths_equals_pytorch(variant, decoders):
    """What lies behind a sequence's end in the cache is never read: there is NaN."""
    lengths, out = [30, 7, 20], []
    ids = torch.tensor([tokens(length, length) + [3] * (30 - length) for length in lengths])
    for decoder in decoders(variant):
        cache = decoder.new_cache(64, batch=3)
        cache.begin(lengths)
        if decoder.native_pass:
            cache.pages.memory.view(torch.float32).fill_(torch.nan)
        logits = [decoder.forward(ids, cache, lengths)]
        for step in range(3):
            logits.append(decoder.forward(torch.tensor([[5 + step], [60], [700 % (70 + step)]]), cache))
        logits.append(
            decoder.forward(torch.tensor([tokens(4, row) for row in range(3)]), cache, all_logits=True).flatten(0, 1)
        )
        logits.append(
            decoder.forward(torch.tensor([tokens(9, row) for row in range(3)]), cache, all_logits=True).flatten(0, 1)
        )
        out.append(torch.cat(logits))
    assert apart(*out) <= VARIANTS[variant][3]


@pytest.mark.parametrize("kind, tolerance", [("fp32", SUMS), ("fp16", 1e-3), ("int8", 2e-2)])
@pytest.mark.parametrize("variant", ["llama of odd sizes, fp32", "mistral with a window, fp32"])
def test_keys_and_values_of_all_kinds_are_those_of_pytorch(level, variant, kind, tolerance, decoders):
    """A value in the middle between two of its kind goes either way, and later logits with it."""
    logits, kept = {}, {}
    for decoder in decoders(variant):
        cache = decoder.new_cache(CAPACITY, pages=Pages(decoder.config, 5, kind))
        cache.begin([200])
        parts = [tokens(200), *([token] for token in tokens(20, 1)), tokens(90, 2)]
        logits[decoder.native_pass is None] = torch.cat(
            [decoder.read([Chunk(0, part, len(part))], cache)[0].clone() for part in parts]
        )
        kept[decoder.native_pass is None] = cache.read(0, 0, 0, 310)
    assert apart(logits[False], logits[True]) <= tolerance
    for one, other in zip(kept[False], kept[True]) if kind == "int8" else ():
        steps = (one - other).abs() / (one.abs().amax(-1, keepdim=True) / 127)
        assert float(steps.max()) < 1.01 and float((steps > 0.5).float().mean()) < 1e-3


def test_matrices_whose_parts_are_of_different_precision_equal_pytorch(level, decoders):
    """As ablations have them: some outputs quantized, others not."""
    decoder = decoders("llama, fp32")[1]

    def mixed(linear: Linear) -> StackedLinear:
        weight = torch.cat([part.weight for part in parts_of(linear)])
        outputs, inputs = weight.shape
        first, second = outputs // 2, outputs - outputs // 4
        quantized = KERNELS["native"].pack([matrix(outputs - second, inputs, 32, 4)], "fp32")
        return StackedLinear(
            (
                DenseLinear(weight[:first], torch.ones(first)),
                DenseLinear(weight[first:second].bfloat16(), compute="bf16"),
                QuantizedLinear(quantized),
            )
        )

    blocks = tuple(
        dataclasses.replace(
            block, qkv=mixed(block.qkv), mlp=dataclasses.replace(block.mlp, gate_up=mixed(block.mlp.gate_up))
        )
        for block in decoder.blocks
    )
    theirs = dataclasses.replace(decoder, blocks=blocks)
    ours = theirs.with_native_pass()
    assert ours.native_pass and apart(conversation(ours), conversation(theirs)) <= ROUNDED


def alone(decoder: Decoder, ids: list[int]) -> torch.Tensor:
    """The logits after each of the tokens, read one by one, [tokens, vocabulary]."""
    cache = decoder.new_cache(CAPACITY)
    cache.begin([1])
    return torch.cat([decoder.decode([token], cache).clone() for token in ids])


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_sequence_does_not_depend_on_the_others_of_its_step(level, variant, decoders):
    decoder = decoders(variant)[0]
    counts = (2, 3, 4, 7, 8, 9, 15, 16, 17, 33, 64) if decoder.cuts_anywhere else (2, 3, 4, 7, 8, 9, 15, 16)
    texts = [tokens(5, row) for row in range(max(counts))]
    expected = torch.stack([alone(decoder, ids) for ids in texts])
    for rows in counts:
        cache = decoder.new_cache(CAPACITY, batch=rows)
        cache.begin([1] * rows)
        for step in range(5):
            logits = decoder.forward(torch.tensor([ids[step : step + 1] for ids in texts[:rows]]), cache)
            assert bit_equal(logits, expected[:rows, step])


@pytest.mark.parametrize("variant", VARIANTS)
def test_drafted_tokens_at_once_equal_one_after_the_other(variant, decoders):
    """To the last bit, so that a draft never changes a greedy answer; also where attention goes over several chunks."""
    decoder, ids = decoders(variant)[0], tokens(CAPACITY)
    logits = {}
    for size in (1, 2, 5, 16, 27, 32) if decoder.cuts_anywhere else (1, 2, 5, 16):
        cache = decoder.new_cache(CAPACITY)
        cache.begin([250])
        decoder.forward(torch.tensor([ids[:250]]), cache)
        parts = [ids[at : min(at + size, 282)] for at in range(250, 282, size)]
        logits[size] = torch.cat([decoder.decode(part, cache).clone() for part in parts])
    assert not [size for size in logits if not bit_equal(logits[size], logits[1])]


@pytest.mark.parametrize("variant", VARIANTS)
def test_logits_and_greedy_answers_do_not_depend_on_the_number_of_threads(variant, decoders, threads):
    decoder, answers, logits = decoders(variant)[0], [], []
    for count in (1, 2, 3):
        threads(count)
        logits.append(conversation(decoder))
        cache = decoder.new_cache(64)
        cache.begin([40])
        answer = [int(decoder.forward(torch.tensor([tokens(40)]), cache)[0].argmax())]
        while len(answer) < 20:
            answer.append(int(decoder.decode(answer[-1:], cache)[0].argmax()))
        answers.append(answer)
    assert bit_equal(logits[0], logits[1]) and bit_equal(logits[0], logits[2])
    assert answers[0] == answers[1] == answers[2]


@pytest.mark.parametrize("count", [1, 3, 16, 17, 40])
def test_tokens_past_the_capacity_are_refused_before_anything_is_written(count, decoders):
    for decoder in decoders("llama, int4"):
        cache = decoder.new_cache(9 + count)
        cache.begin([10])
        decoder.forward(torch.tensor([tokens(10)]), cache)
        before = cache.pages.memory.clone(), list(cache.lengths), cache.pages.free
        for read in (
            partial(decoder.forward, torch.tensor([tokens(count)]), cache),
            partial(decoder.decode, tokens(count), cache),
        ):
            with pytest.raises(ValueError, match=f"{count} more tokens than the 10 in a cache for {9 + count}"):
                read()
            assert torch.equal(cache.pages.memory, before[0])
            assert (cache.lengths, cache.pages.free) == before[1:]
        if count > 1:
            decoder.forward(torch.tensor([tokens(count - 1)]), cache)  # what fits is read


def test_another_kernel_keeps_pytorchs_pass(decoders, monkeypatch, models):
    monkeypatch.setenv("ITREX_CHAT_KERNEL", "reference")
    assert not load_dense(open_checkpoint(sources.local(models("qwen2"))), "fp32").native_pass
    artifact = obtain(recipes.load(str(models("qwen2")))).artifact
    assert not load_quantized(artifact, KERNELS["reference"], "int8").native_pass
