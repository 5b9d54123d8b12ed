"""Prompt lookup: text that was there before comes several tokens at a time, and no answer changes."""

import dataclasses

import pytest
import tiny_models
import torch

from itrex_chat import sources
from itrex_chat.chat import load_tokenizer
from itrex_chat.checkpoints import open_checkpoint
from itrex_chat.engines.native.weights import load_dense
from itrex_chat.foundation.errors import GenerationError
from itrex_chat.generation.lookup import LONGEST, LONGEST_PAUSE, SHORTEST, PromptLookup
from itrex_chat.generation.loop import generate, prefill
from itrex_chat.settings.generation import GenerationConfig

PHRASE = [40, 41, 42, 43, 44, 45, 46, 47, 48, 49, 50, 51]
PROMPT = PHRASE + [7, 8] + PHRASE + [9] + PHRASE[:4]
NOTHING_STOPS = frozenset()
REPEATING = {"repetition_penalty": 0.6}  # which makes a tiny model repeat itself as large ones do


def dense(folder, variant="fp32"):
    return load_dense(open_checkpoint(sources.local(folder)), variant)


@pytest.fixture(scope="module", params=["fp32", "bf16"])
def decoder(request, models):
    return dense(models("qwen2"), request.param)


@pytest.fixture(scope="module")
def tokenizer(models):
    tokenizer = load_tokenizer(models("qwen2"), "qwen2")
    tokenizer.stop_ids = NOTHING_STOPS
    return tokenizer


def answer(decoder, tokenizer, prompt=PROMPT, **settings):
    *pieces, response = generate(decoder, tokenizer, prompt, GenerationConfig(**(REPEATING | settings)))
    return "".join(pieces), response


def same_with_and_without(decoder, tokenizer, prompt=PROMPT, **settings):
    """The answer with prompt lookup, after a look at the one without."""
    plain_text, plain = answer(decoder, tokenizer, prompt, prompt_lookup=False, **settings)
    text, response = answer(decoder, tokenizer, prompt, prompt_lookup=True, **settings)
    assert text == plain_text
    assert (response.token_ids, response.text, response.finish_reason) == (
        plain.token_ids,
        plain.text,
        plain.finish_reason,
    )
    assert (plain.drafted_tokens, plain.accepted_tokens) == (0, 0)
    assert 0 <= response.accepted_tokens <= response.drafted_tokens
    return response


def needs_the_native_pass(decoder):
    if decoder.independent_tokens == 1:
        pytest.skip("the native kernels were not built")


def test_greedy_answers_are_the_same_and_repetition_is_found(decoder, tokenizer):
    needs_the_native_pass(decoder)
    response = same_with_and_without(decoder, tokenizer, max_new_tokens=300)
    assert response.accepted_tokens > 50 and response.drafted_tokens > response.accepted_tokens + 50


def test_the_models_other_kernels_answer_without_drafts(models, tokenizer, monkeypatch):
    decoder = dataclasses.replace(dense(models("qwen2")), native_pass=None)
    response = same_with_and_without(decoder, tokenizer, max_new_tokens=60)
    assert response.drafted_tokens == 0


def test_an_int4_models_answers_are_the_same(models, tokenizer, home):
    from itrex_chat.artifacts.obtaining import verified
    from itrex_chat.engines.native.weights import load_quantized
    from itrex_chat.kernels import choose
    from itrex_chat.settings import recipe as recipes

    artifact = verified(recipes.load(str(models("qwen2"))))
    for compute_dtype in ("int8", "fp32"):
        decoder = load_quantized(artifact, choose(), compute_dtype)
        response = same_with_and_without(decoder, tokenizer, max_new_tokens=200)
        assert (response.accepted_tokens > 0) == (decoder.independent_tokens > 1)


@pytest.mark.parametrize(
    "settings",
    [
        {"repetition_penalty": 1.0},
        {"repetition_penalty": 1.3},
        {"repetition_penalty": 0.3},
        {"do_sample": True, "temperature": 0.3, "seed": 3},
        {"do_sample": True, "temperature": 1.0, "top_k": 3, "seed": 4},
        {"do_sample": True, "temperature": 0.5, "top_p": 1.0, "top_k": 0, "repetition_penalty": 1.0},
    ],
)
def test_penalized_and_sampled_answers_are_the_same(decoder, tokenizer, settings):
    same_with_and_without(decoder, tokenizer, max_new_tokens=150, **settings)


def test_sampling_accepts_drafts_too(decoder, tokenizer):
    needs_the_native_pass(decoder)
    response = same_with_and_without(decoder, tokenizer, max_new_tokens=150, do_sample=True, temperature=0.3, seed=1)
    assert response.accepted_tokens > 0


def test_an_answer_ends_at_a_stop_token_wherever_drafts_meet_it(decoder, tokenizer, monkeypatch):
    whole = answer(decoder, tokenizer, max_new_tokens=60, prompt_lookup=False)[1].token_ids
    for stop in dict.fromkeys(whole):
        monkeypatch.setattr(tokenizer, "stop_ids", frozenset((stop,)))
        for prompt in (PROMPT, PROMPT + whole + PROMPT):  # the second has the stop token in what drafts are copied from
            response = same_with_and_without(decoder, tokenizer, prompt, max_new_tokens=60)
            assert stop not in response.token_ids


@pytest.mark.parametrize("count", [1, 2, 3, 4, 5, 6, 9, 17, 33, 34, 35, 50])
def test_an_answer_has_no_more_tokens_than_allowed(decoder, tokenizer, count):
    response = same_with_and_without(decoder, tokenizer, max_new_tokens=count)
    assert response.new_tokens == count and response.finish_reason == "length"


@pytest.mark.parametrize("left", [1, 2, 3, 7, 16, 40])
def test_an_answer_ends_where_the_models_context_does(decoder, tokenizer, left):
    prompt = (PHRASE * 50)[: decoder.config.context_length - left]
    response = same_with_and_without(decoder, tokenizer, prompt, max_new_tokens=100)
    assert response.new_tokens == left and response.finish_reason == "length"


@pytest.mark.parametrize(
    "family, changes", [("mistral", {"sliding_window": 8}), ("qwen3", {}), ("glm4", {}), ("qwen", {}), ("chatglm3", {})]
)
def test_other_families_answer_the_same(family, changes, tokenizer, tmp_path):
    """Windows, norms of queries and keys, other rotations, log-n attention past the trained length."""
    make = getattr(tiny_models, family, None)
    folder = make(tmp_path / "model") if make else tiny_models.standard(tmp_path / "model", family, **changes)
    same_with_and_without(dense(folder), tokenizer, max_new_tokens=100)


def test_each_of_a_few_tokens_has_the_logits_that_it_has_alone(decoder):
    caches = [decoder.new_cache(len(PROMPT) + 40) for _each in range(2)]
    for cache in caches:
        prefill(decoder, PROMPT, cache)
    few = list(range(60, 60 + decoder.independent_tokens))
    together = decoder.decode(few, caches[0]).clone()
    alone = torch.cat([decoder.decode([token], caches[1]).clone() for token in few])
    assert torch.equal(together, alone)


def test_a_cache_that_forgets_tokens_goes_on_as_if_they_had_never_been(decoder):
    first, second = (decoder.new_cache(len(PROMPT) + 20) for _each in range(2))
    for cache in (first, second):
        prefill(decoder, PROMPT, cache)
    decoder.decode([1, 2, 3, 4, 5], first)
    first.forget(4)
    decoder.decode([1], second)
    assert first.lengths == second.lengths == [len(PROMPT) + 1]
    assert torch.equal(decoder.decode([70], first), decoder.decode([70], second))


def test_a_draft_is_what_followed_the_last_tokens_before():
    lookup = PromptLookup(PHRASE + [7] + PHRASE[:3], NOTHING_STOPS)
    assert lookup.draft(PHRASE[3], 100) == PHRASE[4 : 4 + SHORTEST]


def test_the_longest_and_then_the_latest_occurrence_counts():
    lookup = PromptLookup([1, 2, 3, 4, 50, 9, 3, 4, 60, 9, 3, 4, 70, 1, 2, 3], NOTHING_STOPS)
    assert lookup.draft(4, 1) == [50]
    lookup = PromptLookup([3, 4, 60, 9, 3, 4, 70, 1, 3], NOTHING_STOPS)
    assert lookup.draft(4, 1) == [70]


def test_text_that_repeats_itself_is_taken_to_go_on():
    lookup = PromptLookup([5, 8, 6, 6], NOTHING_STOPS)
    assert lookup.draft(6, 100) == [6] * SHORTEST


def test_new_text_has_no_draft():
    lookup = PromptLookup(list(range(100)), NOTHING_STOPS)
    assert [lookup.draft(token, 100) for token in range(100, 120)] == [[]] * 20


def test_a_draft_ends_before_a_token_that_ends_answers_and_at_the_limit():
    prompt = PHRASE + [7] + PHRASE[:3]
    assert PromptLookup(prompt, frozenset((PHRASE[5],))).draft(PHRASE[3], 100) == [PHRASE[4]]
    assert PromptLookup(prompt, frozenset((PHRASE[4],))).draft(PHRASE[3], 100) == []
    assert PromptLookup(prompt, NOTHING_STOPS).draft(PHRASE[3], 2) == PHRASE[4:6]
    assert PromptLookup(prompt, NOTHING_STOPS).draft(PHRASE[3], 0) == []


def test_right_drafts_grow_to_the_longest():
    text = list(range(1000, 1200))
    lookup, lengths, position = PromptLookup(text + [7] + text[:4], NOTHING_STOPS), [], 4
    while position < 100:
        draft = lookup.draft(text[position], 100)
        assert draft == text[position + 1 : position + 1 + len(draft)]
        lookup.checked(draft, len(draft))
        lengths.append(len(draft))
        position += 1 + len(draft)
    assert lengths[:3] == [SHORTEST, 2 * SHORTEST, LONGEST] and set(lengths[2:]) == {LONGEST}
    assert lookup.drafted == lookup.accepted == sum(lengths)


def test_wrong_drafts_become_rare_and_a_right_one_brings_them_back():
    lookup, tried = PromptLookup([1, 2] * 4, NOTHING_STOPS), []
    for number in range(1000):
        if draft := lookup.draft((1, 2)[number % 2], 100):
            lookup.checked(draft, 0)
            tried.append(number)
    assert len(tried) < 1000 / LONGEST_PAUSE + 10
    while not (draft := lookup.draft(1, 100)):
        pass
    lookup.checked(draft, 1)
    assert lookup.draft(1, 100)


def test_prompt_lookup_is_off_unless_asked_for_and_nothing_else_is_taken_for_it(decoder, tokenizer):
    assert answer(decoder, tokenizer, max_new_tokens=100)[1].drafted_tokens == 0
    for value in ("off", 1, None):
        with pytest.raises(GenerationError, match="prompt_lookup is true or false"):
            GenerationConfig(prompt_lookup=value)
