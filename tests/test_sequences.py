"""Sequences: answers that are made side by side are those that each gets alone, and any of them can be given up."""

import pytest
import torch

from itrex_chat import sources
from itrex_chat.chat import load_tokenizer
from itrex_chat.checkpoints import open_checkpoint
from itrex_chat.decoder.model import Chunk
from itrex_chat.engines.native.weights import load_dense
from itrex_chat.generation import loop
from itrex_chat.generation.lookup import PromptLookup
from itrex_chat.generation.loop import advance, generate
from itrex_chat.generation.sequence import Place, Sequence
from itrex_chat.settings.generation import GenerationConfig

PROMPTS = [list(range(5, 5 + length)) for length in (3, 17, 40, 1, 25)]
SAMPLED = {"do_sample": True, "temperature": 1.5, "top_p": 1.0, "top_k": 0}
CAPACITY = 96


@pytest.fixture(scope="module", params=["qwen2", "qwen"])
def decoder(request, models):
    """Of a family whose keys depend on the position alone, and of one where they depend on the prompt's length, too."""
    return load_dense(open_checkpoint(sources.local(models(request.param))), "fp32")


@pytest.fixture(scope="module")
def tokenizer(models):
    return load_tokenizer(models("qwen2"), "qwen2")


def alone(decoder, tokenizer, prompt, config):
    return list(generate(decoder, tokenizer, prompt, config))[-1]


def started(decoder, tokenizer, configs, drafted=False, cache=None) -> list[Sequence]:
    """Sequences in the rows of one cache."""
    cache = cache or decoder.new_cache(CAPACITY, len(PROMPTS))
    return [
        Sequence(
            prompt,
            config,
            min(config.max_new_tokens, CAPACITY - len(prompt)),
            tokenizer,
            Place(cache, row),
            decoder.config.vocab_size,
            PromptLookup(prompt, tokenizer.stop_ids) if drafted and decoder.independent_tokens > 1 else None,
        )
        for row, (prompt, config) in enumerate(zip(PROMPTS, configs))
    ]


@pytest.mark.parametrize("drafted", [False, True])
def test_answers_made_together_are_those_made_alone(decoder, tokenizer, drafted):
    """Of prompts of all lengths, greedy and sampled, with drafts and without; they begin and end at different times."""
    configs = [
        GenerationConfig(max_new_tokens=30, repetition_penalty=0.6),
        GenerationConfig(max_new_tokens=11, seed=3, **SAMPLED),
        GenerationConfig(max_new_tokens=40, repetition_penalty=0.7),
        GenerationConfig(max_new_tokens=1),
        GenerationConfig(max_new_tokens=24, seed=9, **SAMPLED),
    ]
    sequences = started(decoder, tokenizer, configs, drafted)
    passes = 0
    while any(sequence.finish_reason is None for sequence in sequences):
        advance(decoder, sequences[: 1 + passes])  # one more joins with each pass
        passes += 1
    for sequence, prompt, config in zip(sequences, PROMPTS, configs):
        expected, found = alone(decoder, tokenizer, prompt, config), sequence.response()
        assert (found.token_ids, found.text, found.finish_reason) == (
            expected.token_ids,
            expected.text,
            expected.finish_reason,
        )
        assert "".join(sequence.taken_pieces()) == found.text and sequence.taken_pieces() == []


def test_a_row_is_used_again_by_a_sequence_that_comes_later(decoder, tokenizer):
    configs = [GenerationConfig(max_new_tokens=6)] * len(PROMPTS)
    cache = decoder.new_cache(CAPACITY, len(PROMPTS))
    for _time in range(2):
        sequences = started(decoder, tokenizer, configs, cache=cache)
        while any(sequence.finish_reason is None for sequence in sequences):
            advance(decoder, sequences)
        for sequence, prompt in zip(sequences, PROMPTS):
            assert sequence.ids == alone(decoder, tokenizer, prompt, configs[0]).token_ids


def test_a_cancelled_sequence_ends_as_it_is_and_the_others_go_on(decoder, tokenizer):
    configs = [GenerationConfig(max_new_tokens=20)] * len(PROMPTS)
    sequences = started(decoder, tokenizer, configs)
    for _pass in range(4):
        advance(decoder, sequences)
    sequences[1].cancel()
    while any(sequence.finish_reason is None for sequence in sequences):
        advance(decoder, sequences)
    cancelled, whole = sequences[1].response(), alone(decoder, tokenizer, PROMPTS[1], configs[1])
    assert cancelled.finish_reason == "cancelled" and cancelled.token_ids == whole.token_ids[:4]
    assert sequences[2].ids == alone(decoder, tokenizer, PROMPTS[2], configs[2]).token_ids
    sequences[2].cancel()  # it has ended, and stays as it ended
    assert sequences[2].response().finish_reason != "cancelled"


def test_a_sequence_can_be_cancelled_before_it_has_read_anything(decoder, tokenizer):
    [first, *_others] = started(decoder, tokenizer, [GenerationConfig()] * len(PROMPTS))
    first.cancel()
    advance(decoder, [first])
    response = first.response()
    assert (response.text, response.token_ids, response.tpot, response.finish_reason) == ("", [], None, "cancelled")
    assert response.prefill_tokens_per_second == 0


def test_a_long_prompt_is_read_in_steps_while_others_decode(decoder, tokenizer, monkeypatch):
    monkeypatch.setattr(loop, "PREFILL_STEP", 8)
    configs = [GenerationConfig(max_new_tokens=12)] * len(PROMPTS)
    sequences = started(decoder, tokenizer, configs)
    advance(decoder, sequences)
    assert len(sequences[0].ids) == 1 and sequences[2].reads_prompt and sequences[2].ids == []
    advance(decoder, sequences)
    assert len(sequences[0].ids) == 2 and sequences[2].reads_prompt
    while any(sequence.finish_reason is None for sequence in sequences):
        advance(decoder, sequences)
    for sequence, prompt in zip(sequences, PROMPTS):
        assert sequence.ids == alone(decoder, tokenizer, prompt, configs[0]).token_ids


def test_a_pass_takes_chunks_of_any_rows_and_gives_the_logits_that_each_wants(decoder):
    together, apart = decoder.new_cache(CAPACITY, 4), decoder.new_cache(CAPACITY, 4)
    for cache in (together, apart):
        cache.begin([20, 20, 20, 20])
        for row, count in ((0, 20), (2, 7), (3, 12)):
            decoder.read([Chunk(row, list(range(30, 30 + count)), 0)], cache)
    chunks = [Chunk(3, [70], 1), Chunk(0, [9, 8, 7], 3), Chunk(2, [50, 51], 0), Chunk(1, [4, 5], 1)]
    found = [logits.clone() for logits in decoder.read(chunks, together)]
    assert [len(logits) for logits in found] == [1, 3, 0, 1]
    for chunk, logits in zip(chunks, found):
        [expected] = decoder.read([chunk], apart)
        assert torch.allclose(logits, expected, atol=2e-5)
    assert together.lengths == apart.lengths == [23, 2, 9, 13]


def test_a_row_is_not_read_twice_in_one_pass(decoder):
    cache = decoder.new_cache(CAPACITY, 2)
    cache.begin([1, 1])
    with pytest.raises(ValueError, match="twice"):
        decoder.read([Chunk(1, [4]), Chunk(1, [5])], cache)
    assert cache.lengths == [0, 0]
