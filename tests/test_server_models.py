"""Models in a server: loaded when they are asked, let go of when nobody asks them or another needs the memory."""

import asyncio
import threading
import time

import pytest

from itrex_chat.chat.messages import Message
from itrex_chat.foundation import machine
from itrex_chat.foundation.errors import EngineError
from itrex_chat.generation.request import Request
from itrex_chat.generation.response import Response
from itrex_chat.server.answering import Asked
from itrex_chat.server.conversations import Conversations
from itrex_chat.server.driver import Turns
from itrex_chat.server.errors import ApiError
from itrex_chat.server.models import Model, Models
from itrex_chat.settings import recipe as recipes
from itrex_chat.settings.generation import GenerationConfig
from itrex_chat.settings.variant import Variant

GB = 10**9
ASKED = Request([5, 6, 7], GenerationConfig(max_new_tokens=4))


@pytest.fixture
def served(models, monkeypatch):
    """A tiny model in INT4, INT8 and FP32, on a machine with 10 GB where each that is loaded takes 6; what went wrong."""
    recipe, failures = recipes.load(str(models("qwen2"))), []
    offered = [Model(recipe, Variant.parse(name), 6 * GB) for name in ("int4", "int8", "fp32")]
    found = Models(offered, {}, 1 << 24, 8, 0.2, lambda name, rows: None, lambda name, error: failures.append(error))
    monkeypatch.setattr(machine, "available_memory", lambda: 10 * GB - 6 * GB * sum(model.loaded for model in offered))
    found.failures = failures
    return found


async def answer(model: Model) -> Response:
    group = await Asked.of(model, [ASKED])
    [response] = await group.responses()
    return response


def run(served: Models, work) -> None:
    async def whole() -> None:
        try:
            await work()
        finally:
            await served.close()

    asyncio.run(whole())
    assert not [thread for thread in threading.enumerate() if thread.name == "passes"]


def test_the_model_that_was_not_asked_the_longest_makes_room(served):
    async def work() -> None:
        answers = []
        for name in ("qwen2-tiny:int4", "qwen2-tiny:int8", "qwen2-tiny:int4"):
            async with served.using(name) as model:
                answers.append((await answer(model)).token_ids)
            assert [each.name for each in served.all.values() if each.loaded] == [name]
        assert answers[0] == answers[2]

    run(served, work)


def test_a_model_that_is_being_asked_stays(served):
    async def work() -> None:
        async with served.using("qwen2-tiny:int4") as model:
            with pytest.raises(ApiError) as caught:
                async with served.using("qwen2-tiny:int8"):
                    pass
            assert (caught.value.status, caught.value.code) == (503, "model_busy") and caught.value.retry_after
            assert (await answer(model)).token_ids
        async with served.using("qwen2-tiny:int8") as model:
            assert (await answer(model)).token_ids

    run(served, work)


def test_a_model_that_does_not_fit_at_all_is_refused_with_the_numbers(served):
    served.all["qwen2-tiny:fp32"].needed = 11 * GB

    async def work() -> None:
        with pytest.raises(ApiError, match="needs 11.00? GB of memory, but 10.00? GB is left") as caught:
            async with served.using("qwen2-tiny:fp32"):
                pass
        assert caught.value.code == "out_of_memory"

    run(served, work)


def test_many_who_ask_first_at_a_time_load_it_once(served):
    async def work() -> None:
        async def one() -> list[int]:
            async with served.using("qwen2-tiny") as model:
                return (await answer(model)).token_ids

        answers = await asyncio.gather(*(one() for _number in range(6)))
        assert answers == answers[:1] * 6

    run(served, work)


def test_a_model_that_nobody_asks_is_let_go_of(served):
    async def work() -> None:
        unloading = asyncio.create_task(served.unload_idle())
        async with served.using("qwen2-tiny:int4") as model:
            await asyncio.sleep(0.4)
            assert model.loaded  # it is used
        while model.loaded:
            await asyncio.sleep(0.01)
        async with served.using("qwen2-tiny:int4") as model:
            assert (await answer(model)).token_ids
        unloading.cancel()

    run(served, work)


def test_a_mistake_in_a_pass_ends_what_goes_on_and_the_model_is_loaded_anew(served, monkeypatch):
    async def work() -> None:
        async with served.using("qwen2-tiny:int4") as model:

            def fail() -> None:
                raise ZeroDivisionError

            monkeypatch.setattr(model.driver.scheduler, "advance", fail)
            with pytest.raises(ApiError) as caught:
                await answer(model)
            assert caught.value.status == 500
        async with served.using("qwen2-tiny:int4") as model:
            assert (await answer(model)).token_ids
        assert [type(failure) for failure in served.failures] == [ZeroDivisionError]

    run(served, work)


def test_a_model_that_cannot_be_loaded_is_told_without_the_reason_which_is_logged(served, monkeypatch):
    def fail(*_arguments: object, **_more: object) -> None:
        raise EngineError("something in /a/secret/place is damaged")

    monkeypatch.setattr("itrex_chat.server.models.open_session", fail)

    async def work() -> None:
        with pytest.raises(ApiError, match="cannot be loaded; the server's log says why") as caught:
            async with served.using(None):
                pass
        assert caught.value.status == 503 and "secret" in str(served.failures)

    run(served, work)


def test_all_pages_are_free_or_kept_for_others_when_everybody_has_gone(served):
    async def work() -> None:
        async with served.using("qwen2-tiny:int4") as model:
            groups = [await Asked.of(model, [ASKED, ASKED]) for _number in range(3)]
            for group in groups:
                group.cancel()
            scheduler = model.driver.scheduler
            while scheduler.going or scheduler.waiting:
                await asyncio.sleep(0.01)
            assert (await answer(model)).token_ids
            scheduler.close()
            assert scheduler.pages.free == scheduler.pages.count

    run(served, work)


def test_turns_are_taken_in_the_order_in_which_they_were_asked_for():
    turns, order = Turns(), []
    threads = []

    def take(number: int) -> None:
        with turns:
            order.append(number)

    with turns:
        for number in range(5):
            threads.append(threading.Thread(target=take, args=(number,)))
            threads[-1].start()
            while len(turns._waiting) <= number:
                time.sleep(0.001)
    for thread in threads:
        thread.join()
    assert order == list(range(5))


def test_conversations_are_forgotten_where_there_are_too_many_or_too_much_in_them():
    kept = Conversations(most=3, characters=100)
    for number in range(5):
        kept.keep(f"resp_{number}", [Message("user", "x" * 10)], {"id": number})
    assert kept.find("resp_2").response == {"id": 2}  # and is the newest now
    kept.keep("resp_5", [Message("user", "x" * 75)], {"id": 5})
    assert kept.find("resp_2") and kept.find("resp_5")
    for name in ("resp_0", "resp_3", "resp_6"):
        with pytest.raises(ApiError):
            kept.find(name)
    kept.forget("resp_2")
    kept.keep("resp_7", [Message("user", "x" * 25)], {"id": 7})
    assert kept.find("resp_5") and kept.find("resp_7")
