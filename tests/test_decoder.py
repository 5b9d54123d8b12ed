"""The decoder computes what transformers computes, for every architecture and setting."""

import pytest
import tiny_models
import torch

from itrex_chat import sources
from itrex_chat.checkpoints import open_checkpoint
from itrex_chat.engines.native.weights import load_dense

YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64, "rope_theta": 10000.0}
LLAMA3 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
    "rope_theta": 10000.0,
}
LINEAR = {"rope_type": "linear", "factor": 2.0, "rope_theta": 10000.0}
CASES = {
    "llama": ("llama", {}),
    "llama with biases everywhere": ("llama", {"attention_bias": True, "mlp_bias": True}),
    "llama with a tied head": ("llama", {"tie_word_embeddings": True}),
    "llama with Llama 3 scaling": ("llama", {"rope_parameters": LLAMA3}),
    "llama with linear scaling": ("llama", {"rope_parameters": LINEAR}),
    "mistral with a window": ("mistral", {"sliding_window": 8}),
    "mistral without a window": ("mistral", {"sliding_window": None}),
    "qwen2": ("qwen2", {}),
    "qwen2 with YaRN": ("qwen2", {"rope_parameters": YARN}),
    "qwen2 with windows in some layers": (
        "qwen2",
        {"use_sliding_window": True, "sliding_window": 8, "max_window_layers": 1},
    ),
    "qwen3": ("qwen3", {}),
    "qwen3 with one key head": ("qwen3", {"num_key_value_heads": 1, "attention_bias": True}),
    "glm": ("glm", {}),
    "glm4": ("glm4", {}),
}


@pytest.fixture(params=CASES.values(), ids=CASES.keys())
def pair(request, tmp_path):
    """Our decoder and transformers' model of the same folder."""
    from transformers import AutoModelForCausalLM

    architecture, changes = request.param
    folder = tiny_models.standard(tmp_path / "model", architecture, **changes)
    theirs = AutoModelForCausalLM.from_pretrained(folder, attn_implementation="eager", dtype=torch.float32).eval()
    return load_dense(open_checkpoint(sources.local(folder)), "fp32"), theirs


def logits(decoder, ids: list[int], capacity: int = 64) -> torch.Tensor:
    cache = decoder.new_cache(capacity)
    cache.begin([len(ids)])
    return decoder.forward(torch.tensor([ids]), cache, all_logits=True)[0]


def greedy(decoder, ids: list[int], count: int) -> list[int]:
    cache = decoder.new_cache(len(ids) + count)
    cache.begin([len(ids)])
    token, answer = decoder.forward(torch.tensor([ids]), cache)[0].argmax(), []
    for _step in range(count):
        answer.append(int(token))
        token = decoder.forward(token.reshape(1, 1), cache)[0].argmax()
    return answer


def test_logits_of_every_position_equal_those_of_transformers(pair):
    decoder, theirs = pair
    ids = list(range(3, 43))
    with torch.no_grad():
        expected = theirs(torch.tensor([ids])).logits[0]
    assert (logits(decoder, ids) - expected).abs().max() < 1e-4


def test_decoding_with_the_cache_gives_the_tokens_of_transformers(pair):
    decoder, theirs = pair
    ids = list(range(3, 15))
    expected = theirs.generate(
        torch.tensor([ids]), max_new_tokens=24, do_sample=False, eos_token_id=None, pad_token_id=0
    )[0, len(ids) :].tolist()
    assert greedy(decoder, ids, 24) == expected


def test_a_prompt_in_parts_and_a_batch_of_lengths_change_nothing(pair):
    decoder, _theirs = pair
    prompts = [list(range(3, 33)), list(range(5, 12)), list(range(50, 70))]
    alone = [logits(decoder, ids)[-1] for ids in prompts]

    cache = decoder.new_cache(64)
    cache.begin([30])
    for start in (0, 7, 23):
        stop = {0: 7, 7: 23, 23: 30}[start]
        in_parts = decoder.forward(torch.tensor([prompts[0][start:stop]]), cache)[0]
    assert (in_parts - alone[0]).abs().max() < 1e-4

    cache = decoder.new_cache(64, batch=3)
    cache.begin([len(ids) for ids in prompts])
    padded = torch.tensor([ids + [0] * (30 - len(ids)) for ids in prompts])
    together = decoder.forward(padded, cache, [len(ids) for ids in prompts])
    for row, expected in zip(together, alone):
        assert (row - expected).abs().max() < 1e-4
    following = decoder.forward(torch.tensor([[9], [9], [9]]), cache)
    for row, ids in zip(following, prompts):
        assert (row - logits(decoder, [*ids, 9])[-1]).abs().max() < 1e-4


def test_several_tokens_after_the_prompt_equal_one_after_the_other(pair):
    decoder, _theirs = pair
    ids, drafted = list(range(3, 20)), [7, 8, 9, 10]
    cache = decoder.new_cache(64)
    cache.begin([len(ids)])
    decoder.forward(torch.tensor([ids]), cache)
    at_once = decoder.forward(torch.tensor([drafted]), cache, all_logits=True)[0]
    assert (at_once - logits(decoder, ids + drafted)[-4:]).abs().max() < 1e-4


def test_bf16_differs_from_fp32_by_rounding_only(models):
    checkpoint = open_checkpoint(sources.local(models("qwen2")))
    ids = list(range(3, 43))
    exact, rounded = (logits(load_dense(checkpoint, variant), ids) for variant in ("fp32", "bf16"))
    error = (rounded - exact).norm() / exact.norm()
    assert 0 < error < 0.02
