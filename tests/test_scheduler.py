"""The scheduler: answers that are made side by side are those that each gets alone, whatever comes, goes and is shared."""

import dataclasses
import threading
import time
from collections.abc import Callable

import pytest
import torch
from schedules import Alone, prompts, run

from itrex_chat import sources
from itrex_chat.artifacts import obtain
from itrex_chat.chat import load_tokenizer
from itrex_chat.checkpoints import open_checkpoint
from itrex_chat.decoder.model import Chunk
from itrex_chat.decoder.pages import PAGE, NoPages, Pages
from itrex_chat.engines.native.weights import load_dense, load_quantized
from itrex_chat.foundation.errors import Busy, GenerationError, TokenizerError
from itrex_chat.generation import scheduler as scheduling
from itrex_chat.generation.budget import Budget
from itrex_chat.generation.loop import generate
from itrex_chat.generation.request import Request
from itrex_chat.generation.response import Response
from itrex_chat.generation.scheduler import Scheduler, Ticket
from itrex_chat.jobs.passage import Passage
from itrex_chat.kernels import KERNELS
from itrex_chat.quality.scoring import predictions
from itrex_chat.settings import recipe as recipes
from itrex_chat.settings.generation import GenerationConfig

PROMPTS = [list(range(5, 5 + length)) for length in (3, 17, 40, 1, 25)]
SAMPLED = {"do_sample": True, "temperature": 1.5, "top_p": 1.0, "top_k": 0}
GREEDY = GenerationConfig(max_new_tokens=20, repetition_penalty=0.7)


@pytest.fixture(scope="module", params=["qwen2", "qwen"])
def decoder(request, models):
    """Of a family whose keys depend on the position alone, and of one where they depend on the prompt's length, too."""
    return load_dense(open_checkpoint(sources.local(models(request.param))), "fp32")


@pytest.fixture(scope="module", params=["qwen2", "qwen"])
def quantized(request, models, tmp_path_factory):
    """The same in INT4."""
    artifact = obtain(recipes.load(str(models(request.param))), tmp_path_factory.mktemp("cache")).artifact
    return load_quantized(artifact, KERNELS["native"], "int8")


@pytest.fixture(scope="module")
def tokenizer(models):
    return load_tokenizer(models("qwen2"), "qwen2")


def alone(decoder, tokenizer, prompt, config=GREEDY) -> Response:
    return list(generate(decoder, tokenizer, prompt, config))[-1]


def scheduler_of(decoder, tokenizer, pages=64, **settings) -> Scheduler:
    return Scheduler(decoder, tokenizer, decoder.new_pages(pages), **settings)


def finish(scheduler: Scheduler, until: Callable[[], object] = lambda: False) -> None:
    """Make passes until nothing is left to do, or something is true."""
    for _pass in range(10_000):
        if until() or not (scheduler.waiting or scheduler.going):
            return
        scheduler.advance()
    raise AssertionError("it does not end")


def text(count: int, seed: int) -> list[int]:
    return torch.randint(3, 600, (count,), generator=torch.Generator().manual_seed(seed)).tolist()


@pytest.mark.parametrize("number", range(8))
def test_answers_of_random_schedules_are_those_that_each_prompt_gets_alone(number, decoder, tokenizer):
    run(number, decoder, tokenizer, Alone(decoder, tokenizer), prompts(6, number))


@pytest.mark.parametrize("number", range(8, 24))
def test_so_are_those_of_int4_which_share_parts_of_pages(number, quantized, tokenizer):
    run(number, quantized, tokenizer, Alone(quantized, tokenizer), prompts(6, number))


@pytest.mark.parametrize("cache_format", ["fp16", "int8"])
def test_so_are_those_of_keys_and_values_in_fewer_bits(cache_format, quantized, tokenizer):
    decoder = dataclasses.replace(quantized, cache_format=cache_format)
    caches = [each.new_cache(120) for each in (quantized, decoder)]
    assert [cache.pages.kind for cache in caches] == ["fp32", cache_format]
    for cache in caches:
        cache.begin([120])
    whole, less = (each.read([Chunk(0, text(120, 4))], cache)[0] for each, cache in zip((quantized, decoder), caches))
    assert 0 < float((whole - less).abs().max()) < 0.3 * float(whole.std())
    for number in range(24, 27):
        run(number, decoder, tokenizer, Alone(decoder, tokenizer), prompts(6, number))


def test_long_conversations_end_or_are_told_why_and_never_take_more_than_the_pool(quantized, tokenizer):
    """Each turn has the answers of those before it; the last ones have become too long for the memory."""
    decoder = dataclasses.replace(quantized, cache_format="int8")
    scheduler = scheduler_of(decoder, tokenizer, 7, rows=6)
    held = len(scheduler.pages.memory.untyped_storage())
    conversations, refused = {seed: text(20, seed) for seed in range(10)}, {}
    for turn in range(8):
        tickets = {}
        for seed in conversations.keys() - refused.keys():
            try:
                config = GenerationConfig(max_new_tokens=12, repetition_penalty=0.7)
                tickets[seed] = scheduler.add(Request(conversations[seed] + text(60, 100 * turn + seed), config))
            except GenerationError as error:
                refused[seed] = str(error)
        while not all(ticket.done for ticket in tickets.values()):
            scheduler.advance()
            assert 0 <= scheduler.pages.free <= 7
        for seed, ticket in tickets.items():
            assert ticket.error is None and ticket.response.token_ids
            conversations[seed] = [*ticket.request.prompt, *ticket.response.token_ids]
    assert len(refused) == 10 and all(
        "do not fit into the 448 that there is memory for" in told for told in refused.values()
    )
    assert len(scheduler.pages.memory.untyped_storage()) == held
    scheduler.close()
    assert scheduler.pages.free == 7


def test_a_prompt_that_begins_like_an_earlier_one_is_read_from_where_they_differ(quantized, tokenizer):
    if not quantized.cuts_anywhere:
        pytest.skip("with AMX, activations of many rows are rounded otherwise")
    scheduler, beginning = scheduler_of(quantized, tokenizer), text(150, 1)
    for prompt, cached in (
        (beginning + text(30, 2), 0),
        (beginning + text(30, 3), 150),
        (beginning[:100] + text(9, 4), 100),
        (beginning[:128], 127),  # the last token is read, for what follows it
    ):
        ticket = scheduler.add(Request(prompt, GREEDY))
        finish(scheduler)
        assert ticket.response.token_ids == alone(quantized, tokenizer, prompt).token_ids
        assert ticket.response.cached_tokens == cached


@pytest.mark.parametrize("native", [True, False])
def test_the_log_probabilities_of_a_prompt_are_those_of_measuring(native, quantized, tokenizer):
    """And nothing that others are answered with changes by it."""
    decoder = quantized if native else dataclasses.replace(quantized, native_pass=None)
    scheduler, prompt = scheduler_of(decoder, tokenizer), text(300, 9)
    for _time in range(2):  # the second time it is known
        others = [scheduler.add(Request(each, GREEDY)) for each in (prompt[:150], prompt)]
        scored = scheduler.add(Request(prompt, GREEDY, prompt_logprobs=2))
        finish(scheduler)
        assert scored.response.cached_tokens == 0
        passage = Passage("texts", "one", tuple(prompt), 1)
        for start, logprobs, targets in predictions(decoder, passage):
            found = scored.response.prompt_logprobs[start : start + len(targets)]
            assert [entry.token for entry in found] == targets.tolist()
            own = logprobs.gather(1, targets[:, None])[:, 0]
            assert torch.allclose(torch.tensor([entry.logprob for entry in found]), own, rtol=0, atol=1e-5)
            assert [entry.top[0][0] for entry in found] == logprobs.argmax(-1).tolist()
        for ticket in others:
            assert ticket.response.token_ids == alone(decoder, tokenizer, ticket.request.prompt).token_ids
        assert len(scored.response.prompt_logprobs) == 299


def test_penalties_count_what_the_answer_has(quantized, tokenizer):
    plain = Request(PROMPTS[2], GenerationConfig(max_new_tokens=30))
    for penalty in ({"presence_penalty": 2.0}, {"frequency_penalty": 2.0}):
        scheduler = scheduler_of(quantized, tokenizer)
        first, second = scheduler.add(plain), scheduler.add(dataclasses.replace(plain, **penalty))
        finish(scheduler)
        one, other = first.response.token_ids, second.response.token_ids
        assert one[0] == other[0] and len(set(other)) >= len(set(one))


def test_the_next_turn_of_a_conversation_reads_only_what_is_new(quantized, tokenizer):
    if not quantized.cuts_anywhere:
        pytest.skip("with AMX, activations of many rows are rounded otherwise")
    if quantized.config.rotary.dynamic:
        pytest.skip("keys depend on the prompt's length, which is another test's")
    scheduler, conversation = scheduler_of(quantized, tokenizer), text(90, 5)
    for turn in range(3):
        ticket = scheduler.add(Request(conversation, GREEDY))
        finish(scheduler)
        assert ticket.response.token_ids == alone(quantized, tokenizer, conversation).token_ids
        read = len(conversation) - ticket.response.cached_tokens
        assert read <= (13 if turn else 90)  # with the last token of the answer, which was not read when it came
        conversation = [*conversation, *ticket.response.token_ids, *text(12, 50 + turn)]


def test_keys_that_depend_on_the_prompts_length_are_shared_only_where_they_are_equal(models, tokenizer, tmp_path):
    artifact = obtain(recipes.load(str(models("qwen"))), tmp_path).artifact
    decoder = load_quantized(artifact, KERNELS["native"], "int8")
    trained = decoder.config.trained_length
    scheduler, long = scheduler_of(decoder, tokenizer, 200), text(trained * 3, 8)
    found = []
    for length in (trained - 5, trained + 40, trained * 2 - 10, trained - 2):
        ticket = scheduler.add(Request(long[:length], GenerationConfig(max_new_tokens=4)))
        finish(scheduler)
        expected = alone(decoder, tokenizer, long[:length], GenerationConfig(max_new_tokens=4))
        assert ticket.response.token_ids == expected.token_ids
        found.append(ticket.response.cached_tokens > 0)
    assert not any(found[:2]) and (not decoder.cuts_anywhere or all(found[2:]))


def test_a_prompt_that_is_just_being_read_is_waited_for_by_one_that_begins_alike(quantized, tokenizer):
    scheduler, beginning = scheduler_of(quantized, tokenizer), text(140, 3)
    tickets = [scheduler.add(Request([*beginning, last], GREEDY)) for last in (7, 8, 9)]
    finish(scheduler)
    assert [ticket.response.token_ids for ticket in tickets] == [
        alone(quantized, tokenizer, ticket.request.prompt).token_ids for ticket in tickets
    ]
    if quantized.cuts_anywhere:
        assert [ticket.response.cached_tokens for ticket in tickets] == [0, 140, 140]


def test_what_was_used_longest_ago_is_given_up_for_what_comes(quantized, tokenizer):
    if not quantized.cuts_anywhere:
        pytest.skip("with AMX, activations of many rows are rounded otherwise")
    scheduler, texts = scheduler_of(quantized, tokenizer, 8), [text(130, seed) for seed in range(3)]

    def cached(which: int) -> int:
        ticket = scheduler.add(Request(texts[which], GenerationConfig(max_new_tokens=4)))
        finish(scheduler)
        return ticket.response.cached_tokens

    assert [cached(0), cached(1)] == [0, 0]
    assert cached(0) == 129  # now the other one is older
    assert cached(2) == 0
    assert cached(0) == 129 and cached(1) < 129


def test_requests_wait_for_memory_and_come_in_their_order(decoder, tokenizer):
    scheduler = scheduler_of(decoder, tokenizer, 3)
    tickets = [scheduler.add(Request(text(100, seed), GREEDY)) for seed in range(4)]
    ended: list[Ticket] = []
    while len(ended) < 4:
        ended += scheduler.advance()
        assert scheduler.going <= 1
    assert ended == tickets
    assert [ticket.response.token_ids for ticket in tickets] == [
        alone(decoder, tokenizer, text(100, seed)).token_ids for seed in range(4)
    ]


def test_a_request_that_the_memory_cannot_take_is_told_with_numbers(decoder, tokenizer):
    scheduler = scheduler_of(decoder, tokenizer, 2)
    with pytest.raises(GenerationError, match="100 tokens and 60 of the answer do not fit into the 128.*: kv_cache"):
        scheduler.add(Request(text(100, 1), GenerationConfig(max_new_tokens=60)))
    assert scheduler.add(Request(text(100, 1), GenerationConfig(max_new_tokens=28)))


def test_more_than_may_wait_are_turned_away(decoder, tokenizer):
    scheduler = scheduler_of(decoder, tokenizer, waiting=2)
    tickets = [scheduler.add(Request(PROMPTS[0], GREEDY)) for _each in range(2)]
    with pytest.raises(Busy, match="2 requests wait already"):
        scheduler.add(Request(PROMPTS[0], GREEDY))
    finish(scheduler)
    assert scheduler.add(Request(PROMPTS[0], GREEDY)) and all(ticket.response for ticket in tickets)


def test_a_cancelled_request_ends_as_it_is_and_the_others_go_on(decoder, tokenizer):
    scheduler = scheduler_of(decoder, tokenizer)
    config = GenerationConfig(max_new_tokens=20)
    tickets = [scheduler.add(Request(prompt, config)) for prompt in PROMPTS]
    finish(scheduler, lambda: tickets[1].sequence and len(tickets[1].sequence.ids) == 4)
    scheduler.cancel(tickets[1])
    whole = alone(decoder, tokenizer, PROMPTS[1], config)
    assert tickets[1].response.finish_reason == "cancelled" and tickets[1].response.token_ids == whole.token_ids[:4]
    finish(scheduler)
    assert tickets[2].response.token_ids == alone(decoder, tokenizer, PROMPTS[2], config).token_ids
    scheduler.cancel(tickets[2])  # it has ended, and stays as it ended
    assert tickets[2].response.finish_reason != "cancelled"


def test_a_tokenizer_that_gives_no_text_ends_that_answer_alone(decoder, tokenizer, monkeypatch):
    def fails(_ids):
        raise TokenizerError("no text")

    scheduler = scheduler_of(decoder, tokenizer)
    first, second, third = (scheduler.add(Request(prompt, GREEDY)) for prompt in PROMPTS[:3])
    finish(scheduler, lambda: third.sequence and len(third.sequence.ids) == 4)
    monkeypatch.setattr(first.sequence._stream, "_decode", fails)
    monkeypatch.setattr(second.sequence._stream, "_decode", fails)
    scheduler.cancel(second)
    finish(scheduler)
    assert str(first.error) == str(second.error) == "no text"
    assert third.response.token_ids == alone(decoder, tokenizer, PROMPTS[2]).token_ids
    scheduler.close()
    assert scheduler.pages.free == scheduler.pages.count


def test_a_request_can_be_cancelled_while_it_waits(decoder, tokenizer):
    scheduler = scheduler_of(decoder, tokenizer)
    ticket = scheduler.add(Request(PROMPTS[0], GREEDY))
    scheduler.cancel(ticket)
    response = ticket.response
    assert (response.text, response.token_ids, response.tpot, response.finish_reason) == ("", [], None, "cancelled")
    assert scheduler.advance() == [] and scheduler.waiting == 0


def test_whoever_streams_makes_the_passes_and_who_goes_away_is_cancelled(decoder, tokenizer):
    scheduler = scheduler_of(decoder, tokenizer)
    first, second = (scheduler.add(Request(prompt, GREEDY)) for prompt in PROMPTS[:2])
    *pieces, response = scheduler.stream(first)
    assert "".join(pieces) == response.text == alone(decoder, tokenizer, PROMPTS[0]).text
    never = dict.fromkeys(tokenizer.stop_ids, -100.0)
    third = scheduler.add(Request(PROMPTS[2], GenerationConfig(max_new_tokens=1500), logit_bias=never))
    stream = scheduler.stream(third)
    next(stream)
    stream.close()
    assert third.response.finish_reason == "cancelled"
    assert list(scheduler.stream(second))[-1].token_ids == alone(decoder, tokenizer, PROMPTS[1]).token_ids


def test_threads_that_ask_at_the_same_time_are_answered_together(decoder, tokenizer):
    scheduler, found = scheduler_of(decoder, tokenizer), {}

    def ask(number: int) -> None:
        *pieces, response = scheduler.stream(scheduler.add(Request(PROMPTS[number], GREEDY)))
        found[number] = "".join(pieces), response

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(len(PROMPTS))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for number, prompt in enumerate(PROMPTS):
        text, response = found[number]
        assert text == response.text and response.token_ids == alone(decoder, tokenizer, prompt).token_ids
    scheduler.close()
    assert scheduler.pages.free == scheduler.pages.count


def test_an_answer_ends_at_its_deadline(decoder, tokenizer, monkeypatch):
    scheduler = scheduler_of(decoder, tokenizer, rows=1)
    going = scheduler.add(Request(PROMPTS[0], GenerationConfig(max_new_tokens=200), seconds=50))
    waiting = scheduler.add(Request(PROMPTS[1], GREEDY, seconds=60))
    finish(scheduler, lambda: going.sequence and len(going.sequence.ids) == 3)
    now = time.perf_counter()
    monkeypatch.setattr(scheduling.time, "perf_counter", lambda: now + 100)
    scheduler.advance()
    assert [ticket.response.finish_reason for ticket in (going, waiting)] == ["deadline"] * 2
    assert len(going.response.token_ids) >= 3 and waiting.response.token_ids == []


def test_an_answer_ends_at_a_stop_string_however_its_tokens_are_cut(decoder, tokenizer):
    scheduler = scheduler_of(decoder, tokenizer)
    config = GenerationConfig(max_new_tokens=30, repetition_penalty=0.7)
    whole = alone(decoder, tokenizer, PROMPTS[1], config)
    texts = [whole.text[at : at + 2] for at in range(2, len(whole.text) - 2)]
    texts = [stop for stop in texts if "\ufffd" not in stop]  # half a character is shown when the rest cannot come
    for stop in (texts[0], texts[len(texts) // 2]):
        ticket = scheduler.add(Request(PROMPTS[1], config, stop=("never there", stop)))
        *pieces, response = scheduler.stream(ticket)
        assert response.text == whole.text[: whole.text.index(stop)] == "".join(pieces)
        assert response.finish_reason == "stop"
        assert response.token_ids == whole.token_ids[: len(response.token_ids)]
        assert stop in tokenizer.decode(response.token_ids)
        assert stop not in tokenizer.decode(response.token_ids[:-1])


def test_a_bias_bans_tokens_and_brings_them(decoder, tokenizer):
    scheduler = scheduler_of(decoder, tokenizer)
    first = alone(decoder, tokenizer, PROMPTS[1]).token_ids[0]
    banned = scheduler.add(Request(PROMPTS[1], GREEDY, logit_bias={first: -100}))
    forced = scheduler.add(Request(PROMPTS[1], GenerationConfig(max_new_tokens=5), logit_bias={77: 100.0}))
    finish(scheduler)
    assert first not in banned.response.token_ids[:1] and forced.response.token_ids == [77] * 5


def test_a_bias_for_a_token_that_the_model_does_not_have_is_refused(decoder, tokenizer):
    scheduler, count = scheduler_of(decoder, tokenizer), decoder.config.vocab_size
    with pytest.raises(GenerationError, match=f"the token {count}, but the model has only {count}"):
        scheduler.add(Request(PROMPTS[1], GREEDY, logit_bias={count: 1.0}))
    assert scheduler.add(Request(PROMPTS[1], GREEDY, logit_bias={count - 1: 1.0}))


def test_log_probabilities_are_the_models(decoder, tokenizer):
    scheduler = scheduler_of(decoder, tokenizer)
    ticket = scheduler.add(Request(PROMPTS[2], GREEDY, logprobs=3))
    finish(scheduler)
    response, cache = ticket.response, decoder.new_cache(100)
    assert len(response.logprobs) == len(response.token_ids)
    cache.begin([len(PROMPTS[2])])
    ids = PROMPTS[2]
    for place in response.logprobs:
        expected = decoder.read([Chunk(0, ids)], cache)[0][0].log_softmax(-1)
        assert place.logprob == pytest.approx(float(expected[place.token]), abs=1e-4)
        assert [token for token, _value in place.top] == expected.topk(3).indices.tolist()
        ids = [place.token]


@pytest.mark.parametrize(
    "asked", [{"stop": ("",)}, {"stop": ("a",) * 17}, {"seconds": 0}, {"logit_bias": {3: 101}}, {"logprobs": 21}]
)
def test_what_cannot_be_asked_is_refused(asked):
    with pytest.raises(GenerationError):
        Request(PROMPTS[0], **asked)


def test_a_long_prompt_is_read_in_parts_while_others_decode(quantized, tokenizer):
    scheduler = scheduler_of(quantized, tokenizer, 80)
    config = GenerationConfig(max_new_tokens=60)
    first = scheduler.add(Request(PROMPTS[1], config, logit_bias={}))
    finish(scheduler, lambda: first.sequence and len(first.sequence.ids) == 2)
    long = scheduler.add(Request(text(400, 9), GREEDY))
    scheduler.advance()
    assert long.sequence.reads_prompt and len(first.sequence.ids) == 3
    finish(scheduler)
    assert first.response.token_ids == alone(quantized, tokenizer, PROMPTS[1], config).token_ids
    assert long.response.token_ids == alone(quantized, tokenizer, long.request.prompt).token_ids


def test_a_pass_takes_chunks_of_any_rows_and_gives_the_logits_that_each_wants(decoder):
    together, apart = decoder.new_cache(96, 4), decoder.new_cache(96, 4)
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
    cache = decoder.new_cache(96, 2)
    cache.begin([1, 1])
    with pytest.raises(ValueError, match="twice"):
        decoder.read([Chunk(1, [4]), Chunk(1, [5])], cache)
    assert cache.lengths == [0, 0]


def test_a_pass_that_finds_no_page_reads_nothing(decoder):
    pages = Pages(decoder.config, 1)
    cache = decoder.new_cache(200, 2, pages)
    cache.begin([1, 1])
    decoder.read([Chunk(0, text(40, 1))], cache)
    with pytest.raises(NoPages):
        decoder.read([Chunk(0, text(PAGE, 2))], cache)
    assert cache.lengths == [40, 0] and pages.free == 0
    cache.end_row(0)
    assert pages.free == 1


def test_a_pass_over_prompts_alone_takes_about_a_second_at_most_and_no_less_than_what_is_worth_it():
    slow, fast = Budget(), Budget()
    for _pass in range(5):
        slow.took(0, slow.prompt_tokens(0), slow.prompt_tokens(0) / 100)  # at 100 tokens a second
        fast.took(0, fast.prompt_tokens(0), fast.prompt_tokens(0) / 10_000)
    assert (slow.prompt_tokens(0), fast.prompt_tokens(0)) == (100, 1024)
    slow.took(0, 100, 100.0)
    assert slow.prompt_tokens(0) == 64


@pytest.mark.parametrize("before, after", [(1.0, 2.5), (1.0, 0.4)])
def test_answers_keep_half_of_what_a_machine_allows_that_gets_slower_or_faster_while_a_prompt_is_read(before, after):
    budget = Budget()

    def passes(count: int, pace: float) -> list[int]:
        """Of a machine that reads its weights in 20 ms, or multiplies 6 rows beside 4 in that time."""
        prompts = [0] * count
        for number in range(count):
            prompts[number] = budget.prompt_tokens(4)
            budget.took(4, prompts[number], pace * max(0.02, 0.002 * (4 + prompts[number])))
        return prompts

    budget.took(4, 0, 0.02 * before)
    assert passes(16, before)[-1] == 15
    assert 13 <= max(passes(120, after)[-20:]) <= 17
