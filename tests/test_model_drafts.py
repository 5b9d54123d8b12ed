"""Another decoder drafts: no token changes, what it would have chosen is known at each place, and it works only where that
pays."""

import random
from functools import partial

import pytest
import torch
from test_drafters import PROMPT, SETTINGS, answer, decoder, folder, smaller, tokenizer  # noqa: F401  fixtures

from itrex_chat.artifacts.obtaining import obtain
from itrex_chat.decoder.model import Chunk
from itrex_chat.engines.native.weights import load_quantized
from itrex_chat.generation import model_drafts
from itrex_chat.generation.loop import generate, prefill
from itrex_chat.generation.model_drafts import DraftModel
from itrex_chat.generation.payoff import Odds, PassCosts, Payoff
from itrex_chat.generation.sampling import Sampler
from itrex_chat.kernels import choose
from itrex_chat.settings import recipe as recipes
from itrex_chat.settings.generation import GenerationConfig


class Eager(Payoff):
    """Drafts as many tokens as may be."""

    def length(self, most):
        return most

    def goes_on(self, odds, drafted, most):
        return True

    def takes(self, odds, drafted, most):
        return True

    def worth_reading(self, prompt, room, most):
        return True


class Moody(Eager):
    """Drafts as it pleases."""

    def __init__(self, seed, likely_share=1.0):
        super().__init__(likely_share)
        self._random = random.Random(seed)

    def length(self, most):
        return self._random.choice((0, most))

    def goes_on(self, odds, drafted, most):
        return self._random.random() < 0.7

    def takes(self, odds, drafted, most):
        return self._random.random() < 0.7


@pytest.fixture(scope="module")
def int4(folder, tmp_path_factory):  # noqa: F811
    """The INT4 variant of `decoder`."""
    artifact = obtain(recipes.load(str(folder)), tmp_path_factory.mktemp("cache")).artifact
    return load_quantized(artifact, choose(), "int8")


@pytest.fixture(params=["int4", "smaller", "itself"])
def drafts(request, decoder):  # noqa: F811
    """A function that gives a DraftModel with another payoff."""
    other = decoder if request.param == "itself" else request.getfixturevalue(request.param)
    return lambda payoff: DraftModel("int4", other, decoder.config.vocab_size, payoff)


def drafted(decoder, tokenizer, settings, model):  # noqa: F811
    *_pieces, response = generate(decoder, tokenizer, PROMPT, GenerationConfig(**settings), model=model)
    return response


def choices_of(model, settings, ids):
    """What a model chooses at each place of an answer, read a token at a time; it sees what was chosen before."""
    sampler = Sampler(GenerationConfig(**settings), PROMPT, model.vocabulary)
    cache = model.decoder.new_cache(len(PROMPT) + len(ids))
    logits, found = prefill(model.decoder, PROMPT, cache), []
    for token in ids:
        found.append(sampler.pick(logits[: model.vocabulary]))
        sampler.note(token)
        [[logits]] = model.decoder.read([Chunk(0, [token])], cache)
    return found


@pytest.mark.parametrize("payoff", [partial(Eager, 1.0), partial(Moody, 1), partial(Moody, 2)], ids=["eager", "1", "2"])
@pytest.mark.parametrize("settings", SETTINGS.values(), ids=SETTINGS.keys())
def test_answers_are_those_without_drafts_and_each_place_is_judged(
    decoder,  # noqa: F811
    tokenizer,  # noqa: F811
    drafts,
    settings,
    payoff,
    monkeypatch,
):
    monkeypatch.setattr(model_drafts, "PAUSE", 3)
    _pieces, plain = answer(decoder, tokenizer, settings)
    response = drafted(decoder, tokenizer, settings, model := drafts(payoff()))
    assert (response.token_ids, response.text, response.finish_reason) == (
        plain.token_ids,
        plain.text,
        plain.finish_reason,
    )
    expected = choices_of(model, settings, response.token_ids)
    agreed = [choice == token for choice, token in zip(expected, response.token_ids)]
    assert len(agreed) - 16 <= response.judged_tokens <= len(agreed)
    assert response.agreed_tokens == sum(agreed[: response.judged_tokens])
    assert 0 <= response.accepted_tokens <= response.drafted_tokens and response.drafter == "int4"
    assert (plain.drafter, plain.judged_tokens, plain.plain_tpot) == ("", 0, None)


def test_the_same_model_draws_the_same_tokens_also_at_random(decoder, tokenizer):  # noqa: F811
    """A drafter chooses with the draws that the answer's sampler will make, so that its drafts are right."""
    settings = {"max_new_tokens": 60, "do_sample": True, "temperature": 2.0, "top_p": 1.0, "top_k": 0, "seed": 3}
    response = drafted(decoder, tokenizer, settings, DraftModel("int4", decoder, decoder.config.vocab_size, Eager(1.0)))
    assert response.agreed_tokens == response.judged_tokens > 40
    assert response.accepted_tokens == response.drafted_tokens > 40


def test_the_first_tokens_come_without_drafts_and_tell_their_speed(decoder, tokenizer, int4):  # noqa: F811
    short = {"max_new_tokens": model_drafts.PLAIN}
    response = drafted(decoder, tokenizer, short, DraftModel.beside("int4", int4, decoder))
    assert response.drafted_tokens == response.judged_tokens == 0 and response.tpot >= response.plain_tpot > 0
    assert response.plain_tokens_per_second == 1 / response.plain_tpot


def test_a_drafter_whose_logits_are_no_numbers_drafts_nothing(decoder, tokenizer, smaller):  # noqa: F811
    import dataclasses

    broken = dataclasses.replace(smaller, norm=torch.full_like(smaller.norm, torch.nan)).with_native_pass()
    _pieces, plain = answer(decoder, tokenizer, SETTINGS["greedy"])
    response = drafted(
        decoder, tokenizer, SETTINGS["greedy"], DraftModel("int4", broken, decoder.config.vocab_size, Eager(1.0))
    )
    assert response.token_ids == plain.token_ids and response.drafted_tokens == response.judged_tokens == 0


def test_a_drafter_that_does_not_know_a_token_of_the_prompt_or_the_answer_drafts_nothing(decoder, tokenizer, smaller):  # noqa: F811
    _pieces, plain = answer(decoder, tokenizer, SETTINGS["greedy"])
    for vocabulary in (max(PROMPT), sorted(plain.token_ids[:5])[2]):
        response = drafted(decoder, tokenizer, SETTINGS["greedy"], DraftModel("int4", smaller, vocabulary, Eager(1.0)))
        assert response.token_ids == plain.token_ids and response.drafted_tokens == 0


# What drafts are worth.


def paying(pass_of, draft: float, right: bool = True) -> Payoff:
    """A payoff that has seen passes of `pass_of(rows)` seconds, and drafts that were all right, or all wrong."""
    payoff = Payoff(0.2)
    for rows in (1, 2, 4, 8, 16):
        for _pass in range(9):
            payoff.passes.add(rows, pass_of(rows))
    for _pass in range(9):
        payoff.drafts.add(1, draft)
    for _place in range(400):
        payoff.odds.judge(0.97, right)
    return payoff


def test_drafts_are_long_where_they_are_right_and_cheap_and_none_where_they_are_not():
    flat = lambda rows: 1.0
    assert paying(flat, 0.05).length(15) == 15
    assert 1 <= paying(lambda rows: 0.5 + 0.5 * rows, 0.05).length(15) <= 15
    assert paying(flat, 0.2, right=False).length(15) == 0
    assert paying(flat, 1.2).length(15) == 0  # a draft costs more than the pass it saves
    assert paying(lambda rows: 1.0 * rows, 0.01).length(15) == 0  # rows cost as much as passes
    assert paying(flat, 0.05).length(3) == 3


def test_a_draft_ends_before_a_token_that_is_hardly_right():
    payoff = paying(lambda rows: 1.0 + 0.1 * rows, 0.2)
    assert payoff.goes_on(1.0, 1, 15) and not payoff.goes_on(0.1, 1, 15)
    assert payoff.takes(0.9, 1, 15) and not payoff.takes(0.05, 1, 15)


def test_a_long_prompt_is_not_read_for_a_short_rest():
    payoff = paying(lambda rows: 1.0, 0.1)
    payoff.passes.add_prompt(100, 40.0)
    assert payoff.worth_reading(100, 200, 15) and not payoff.worth_reading(10_000, 200, 15)
    assert not payoff.worth_reading(100, 8, 15)
    payoff.answered(6)  # answers turn out to be short
    assert not payoff.worth_reading(100, 200, 15)
    payoff.drafts.add_prompt(100, 0.5)  # the drafter reads faster
    assert payoff.worth_reading(100, 200, 15)


def test_the_costs_of_passes_are_not_spoilt_by_one_that_was_interrupted():
    costs = PassCosts()
    for rows in (1, 2, 3, 4):
        for _pass in range(9):
            costs.add(rows, 1.0 + 0.01 * rows)
    costs.add(6, 5.0)
    assert costs.of(1) == pytest.approx(1.01, abs=0.06) and costs.of(4) == pytest.approx(1.04, abs=0.1)
    assert costs.of(5) < 1.8 and costs.of(6) < 4
    for _pass in range(300):
        costs.add(4, 1.04)
    assert costs.of(6) < 1.4
    assert PassCosts().of(3) == 1.0


@pytest.mark.parametrize("faster", [0.6, 1.7])
def test_a_machine_that_gets_faster_or_slower_does_so_for_all_passes(faster):
    payoff = paying(lambda rows: 1.0 + 0.1 * rows, 0.4)
    before = payoff.length(7)
    assert before
    for _pass in range(12):  # an answer without drafts, at another speed of the machine than the ones with them
        payoff.passes.add(1, 1.1 / faster)
    assert payoff.passes.of(1) == pytest.approx(1.1 / faster, rel=0.05)
    assert payoff.passes.of(8) == pytest.approx(1.8 / faster, rel=0.12)
    assert payoff.length(7) == before


def test_the_pace_does_not_wander_with_noise():
    payoff, noise = paying(lambda rows: 1.0 + 0.1 * rows, 0.4), random.Random(5)
    for _pass in range(5000):
        payoff.passes.add(8, 1.8 * noise.choice([0.95, 0.97, 1.0, 1.0, 1.02, 1.3]))
    assert payoff.passes.of(1) / payoff.passes.of(8) == pytest.approx(1.1 / 1.8, rel=0.15)


def from_disk(seconds, drafts: float = 0.06) -> Payoff:
    """A payoff of passes that read weights from disk, which has seen these seconds by rows, and a draft of two tokens."""
    payoff = Payoff(0.33, streamed=True)
    for rows, taken in seconds:
        payoff.passes.add(rows, taken)
    payoff.drafts.add(2, drafts)
    return payoff


def test_where_passes_read_from_disk_already_the_first_draft_is_long():
    payoff = from_disk([(1, 0.9)])
    assert payoff.length(15) >= 7
    assert payoff.goes_on(0.6, 14, 15) and not payoff.goes_on(0.05, 4, 15)
    assert Payoff(0.33, streamed=True).length(15) > 0  # before there was any pass


@pytest.mark.parametrize("seed", range(5))
def test_a_disk_whose_speed_varies_does_not_shorten_drafts(seed):
    noise = random.Random(seed)
    payoff = from_disk([(rows, 0.9 * noise.uniform(0.6, 1.6)) for rows in (1, 2, 3, 2, 4, 3, 6)])
    assert payoff.length(15) >= 5 and payoff.goes_on(0.6, 11, 15)


def test_drafts_are_short_where_rows_of_a_pass_cost_much_though_it_reads_from_disk():
    payoff = from_disk(
        [(rows, 0.5 + 0.5 * rows) for rows in (1, 16, 1, 12, 1, 14, 8, 1, 9, 4, 1) for _again in range(9)]
    )
    assert payoff.length(15) < 8 and not payoff.goes_on(0.3, 8, 15)


def test_the_disk_and_the_processor_each_have_their_own_pace():
    payoff = from_disk([(rows, 0.9) for rows in (1, 16) for _pass in range(9)])
    for _pass in range(12):
        payoff.drafts.add(1, 0.06)
    before = payoff.drafts.of(1)
    for _pass in range(12):
        payoff.passes.add(16, 3.0)
    assert payoff.drafts.of(1) == before and payoff.passes.of(1) > 2


def test_a_drafter_that_is_like_the_decoder_is_believed_also_where_it_hesitates():
    alike, unlike = Odds(), Odds()
    for _place in range(12):
        alike.judge(0.6, True)
        unlike.judge(0.6, False)
    assert alike.of(0.2) > 0.6 > 0.25 > unlike.of(0.2)
    assert alike.of(0.95) > 0.97 and unlike.of(0.6) < 0.3
    for _place in range(60):  # at places of one kind it is wrong nevertheless
        alike.judge(0.2, False)
        alike.judge(0.6, True)
    assert alike.of(0.2) < 0.25 and alike.of(0.6) > 0.9


def test_sequences_that_share_a_pass_draft_less():
    payoff = paying(lambda rows: 1.0 + 0.1 * max(0, rows - 4), 0.2)
    alone = payoff.length(3)
    payoff.sequences = 4
    assert payoff.length(3) < alone
