"""Answers: stopping, sampling with a seed, streaming, and figures."""

from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from itrex_chat import sources
from itrex_chat.chat import load_tokenizer
from itrex_chat.checkpoints import open_checkpoint
from itrex_chat.engines.native.weights import load_dense
from itrex_chat.foundation.errors import GenerationError
from itrex_chat.generation import loop
from itrex_chat.generation.loop import generate
from itrex_chat.generation.sampling import Sampler
from itrex_chat.settings.generation import GenerationConfig

PROMPT = list(range(5, 30))


@pytest.fixture(scope="module")
def decoder(models):
    return load_dense(open_checkpoint(sources.local(models("qwen2"))), "fp32")


@pytest.fixture
def tokenizer(models):
    return load_tokenizer(models("qwen2"), "qwen2")


def answer(decoder, tokenizer, prompt=PROMPT, **settings):
    *pieces, response = generate(decoder, tokenizer, prompt, GenerationConfig(**settings))
    return pieces, response


def test_greedy_answers_are_the_same_every_time(decoder, tokenizer):
    first, second = (answer(decoder, tokenizer, max_new_tokens=20)[1] for _time in range(2))
    assert first.token_ids == second.token_ids and len(first.token_ids) == 20


def test_the_pieces_join_to_the_text(decoder, tokenizer):
    pieces, response = answer(decoder, tokenizer, max_new_tokens=40)
    assert "".join(pieces) == response.text == tokenizer.decode(response.token_ids)


def test_an_answer_ends_at_a_stop_token_which_is_not_part_of_it(decoder, tokenizer):
    whole = answer(decoder, tokenizer, max_new_tokens=20)[1]
    assert whole.finish_reason == "length"
    stop = whole.token_ids[7]
    tokenizer.stop_ids = frozenset((stop,))
    cut = answer(decoder, tokenizer, max_new_tokens=20)[1]
    assert cut.finish_reason == "stop"
    assert cut.token_ids == whole.token_ids[: whole.token_ids.index(stop)]


def test_an_answer_that_stops_at_once_is_empty(decoder, tokenizer):
    tokenizer.stop_ids = frozenset(range(decoder.config.vocab_size))
    pieces, response = answer(decoder, tokenizer)
    assert (response.text, response.token_ids, response.finish_reason, response.tpot) == ("", [], "stop", None)
    assert pieces == []


def test_an_answer_ends_where_the_models_context_does(decoder, tokenizer):
    prompt = [5] * (decoder.config.context_length - 3)
    response = answer(decoder, tokenizer, prompt, max_new_tokens=50)[1]
    assert len(response.token_ids) == 3 and response.finish_reason == "length"


def test_a_prompt_that_is_too_long_is_refused_with_the_numbers(decoder, tokenizer):
    with pytest.raises(GenerationError, match="512 tokens, but the model takes 512"):
        answer(decoder, tokenizer, [5] * 512)


def test_a_tokenizer_of_another_model_is_refused(decoder, tokenizer):
    with pytest.raises(GenerationError, match="does not fit the model"):
        answer(decoder, tokenizer, [99999])


def test_an_empty_prompt_is_not_blamed_on_the_tokenizer(decoder, tokenizer):
    with pytest.raises(GenerationError, match="The prompt is empty"):
        answer(decoder, tokenizer, [])


def test_a_long_prompt_in_steps_gives_the_same_answer(decoder, tokenizer, monkeypatch):
    at_once = answer(decoder, tokenizer, max_new_tokens=10)[1]
    monkeypatch.setattr(loop, "PREFILL_STEP", 4)
    assert answer(decoder, tokenizer, max_new_tokens=10)[1].token_ids == at_once.token_ids


def test_figures_belong_to_the_answer(decoder, tokenizer):
    response = answer(decoder, tokenizer, max_new_tokens=12)[1]
    assert response.prompt_token_ids == PROMPT and response.prompt_tokens == len(PROMPT)
    assert response.new_tokens == 12
    assert response.ttft > 0 and response.tpot > 0
    assert response.tokens_per_second == pytest.approx(1 / response.tpot)


def test_the_same_seed_samples_the_same_answer_and_another_one_another(decoder, tokenizer):
    settings = {"do_sample": True, "temperature": 2.0, "top_p": 1.0, "top_k": 0, "max_new_tokens": 20}
    first, again, other = (answer(decoder, tokenizer, seed=seed, **settings)[1].token_ids for seed in (1, 1, 2))
    assert first == again != other


def test_a_temperature_of_zero_or_one_candidate_is_greedy(decoder, tokenizer):
    greedy = answer(decoder, tokenizer, max_new_tokens=20)[1].token_ids
    settings = {"do_sample": True, "repetition_penalty": 1.0, "max_new_tokens": 20}
    for only in ({"temperature": 0.0}, {"top_k": 1}, {"top_p": 0.0, "temperature": 1.0}):
        assert answer(decoder, tokenizer, **settings, **only)[1].token_ids == greedy


def chosen(logits, count=2000, prompt=(), **settings) -> torch.Tensor:
    """How often each token is chosen."""
    counts = torch.zeros(len(logits))
    for seed in range(count):
        sampler = Sampler(GenerationConfig(do_sample=True, seed=seed, **settings), list(prompt), len(logits))
        counts[sampler.choose(logits)] += 1
    return counts / count


LOGITS = torch.tensor([2.0, 1.0, 0.0, -1.0])


def test_sampling_follows_the_distribution():
    found = chosen(LOGITS, temperature=1.0, top_k=0, top_p=1.0, repetition_penalty=1.0)
    assert (found - LOGITS.softmax(0)).abs().max() < 0.04


def test_temperature_sharpens_the_distribution():
    found = chosen(LOGITS, temperature=0.5, top_k=0, top_p=1.0, repetition_penalty=1.0)
    assert (found - (LOGITS / 0.5).softmax(0)).abs().max() < 0.04


def test_top_k_keeps_the_k_likeliest():
    found = chosen(LOGITS, temperature=1.0, top_k=2, top_p=1.0, repetition_penalty=1.0)
    assert (found > 0).tolist() == [True, True, False, False]


def test_top_p_keeps_the_fewest_tokens_that_reach_p():
    found = chosen(LOGITS, temperature=1.0, top_k=0, top_p=0.7, repetition_penalty=1.0)
    assert (found > 0).tolist() == [True, True, False, False]  # 0.64, then 0.24 is needed to reach 0.7


def test_repetition_penalty_divides_positive_and_multiplies_negative_logits():
    sampler = Sampler(GenerationConfig(repetition_penalty=2.0), [0], 3)
    assert sampler.choose(torch.tensor([3.0, 2.0, -1.0])) == 1  # 3 / 2 < 2
    assert sampler.choose(torch.tensor([-1.0, -1.0, -1.5])) == 2  # tokens 0 and 1 are at -2 now


def test_repetition_penalty_is_itrexs_when_sampling_and_none_when_greedy():
    assert GenerationConfig().effective_repetition_penalty == 1.0
    assert GenerationConfig(do_sample=True).effective_repetition_penalty == 1.1
    assert GenerationConfig(repetition_penalty=1.3).effective_repetition_penalty == 1.3


@pytest.mark.parametrize(
    "settings",
    [
        {"max_new_tokens": 0},
        {"max_new_tokens": 2.5},
        {"max_new_tokens": True},
        {"temperature": -1},
        {"top_p": 2},
        {"top_k": -1},
        {"temperature": float("nan")},
        {"temperature": "hot"},
        {"do_sample": "yes"},
        {"seed": -1},
        {"repetition_penalty": 0},
    ],
)
def test_settings_that_cannot_be_meant_are_refused(settings):
    with pytest.raises(GenerationError, match=next(iter(settings))):
        GenerationConfig(**settings)


def test_two_answers_at_once_are_the_same_as_one_after_the_other(decoder, tokenizer):
    prompts = [list(range(start, start + 12)) for start in range(3, 60, 8)]

    def ids(prompt):
        return answer(decoder, tokenizer, prompt, max_new_tokens=60)[1].token_ids

    alone = [ids(prompt) for prompt in prompts]
    with ThreadPoolExecutor(4) as threads:
        assert list(threads.map(ids, prompts)) == alone
