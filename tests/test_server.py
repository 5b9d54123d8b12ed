"""The server: OpenAI's API as its clients know it, and answers that are those that one gets alone."""

import json
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Literal

import openai
import psutil
import pydantic
import pytest
from moments import until
from served import MODEL, ROOT, serving

from itrex_chat.jobs.passage import Passage
from itrex_chat.neuralchat.chatbot import load_chatbot
from itrex_chat.quality.scoring import predictions
from itrex_chat.settings import recipe as recipes
from itrex_chat.settings.generation import GenerationConfig

QUESTIONS = [
    "What is the capital of France?",
    "Count from one to ten.",
    "Say hello in three languages.",
    "What is 2 + 2?",
]
STORY = {"messages": [{"role": "user", "content": "Tell me a very long story about a fox."}], "max_tokens": 2000}


@pytest.fixture(scope="module")
def server(package_cache):
    with serving(package_cache) as served:
        yield served


@pytest.fixture
def client(server):
    with openai.OpenAI(base_url=f"http://127.0.0.1:{server.port}/v1", api_key="none", max_retries=0) as found:
        yield found


@pytest.fixture(scope="module")
def chatbot(server, package_cache):
    """The same model in this process."""
    with pytest.MonkeyPatch.context() as here:
        here.setenv("ITREX_CHAT_CACHE", str(package_cache))
        found = load_chatbot(recipes.load(recipes.EMBEDDED), "int4")
        yield found
        found.close()


def told(question: str, **more: object) -> dict:
    return {"model": MODEL, "messages": [{"role": "user", "content": question}], "max_tokens": 24} | more


def test_models_are_listed_and_found_by_name(client):
    assert [model.id for model in client.models.list()] == [MODEL]
    assert client.models.retrieve(MODEL).owned_by == "itrex_chat"
    with pytest.raises(openai.NotFoundError, match="There is no model 'gpt-4o' here"):
        client.chat.completions.create(**told("Hello") | {"model": "gpt-4o"})


def test_answers_of_many_clients_are_those_that_each_gets_alone(client, chatbot):
    asked = [told(question) for question in QUESTIONS * 2]
    with ThreadPoolExecutor(len(asked)) as clients:
        answers = list(clients.map(lambda each: client.chat.completions.create(**each), asked))
    for each, answer in zip(asked, answers):
        alone = chatbot.chat(each["messages"], GenerationConfig(max_new_tokens=24))
        [choice] = answer.choices
        assert choice.message.content == alone.text and choice.finish_reason == alone.finish_reason
        assert (answer.usage.prompt_tokens, answer.usage.completion_tokens) == (alone.prompt_tokens, alone.new_tokens)


def test_a_stream_has_the_pieces_of_the_same_answer_and_its_usage(client):
    whole = client.chat.completions.create(**told(QUESTIONS[1]))
    chunks = list(
        client.chat.completions.create(**told(QUESTIONS[1]), stream=True, stream_options={"include_usage": True})
    )
    *deltas, ending, usage = chunks
    assert deltas[0].choices[0].delta.role == "assistant"
    assert "".join(chunk.choices[0].delta.content for chunk in deltas) == whole.choices[0].message.content
    assert ending.choices[0].finish_reason == whole.choices[0].finish_reason
    assert usage.choices == [] and usage.usage.completion_tokens == whole.usage.completion_tokens
    cached = usage.usage.prompt_tokens_details.cached_tokens
    assert cached in (0, usage.usage.prompt_tokens - 1)  # 0 where it matters where a prompt is cut (AMX)


def test_a_stop_string_ends_an_answer_and_is_not_part_of_it(client):
    answer = client.chat.completions.create(**told(QUESTIONS[0], stop=[" Paris"])).choices[0]
    assert (answer.message.content, answer.finish_reason) == ("The capital of France is", "stop")


def test_a_seed_repeats_a_sampled_answer_and_n_gives_different_ones(client):
    sampled = told("Tell me a joke.", temperature=1.0, seed=7, n=3)
    first, second = (client.chat.completions.create(**sampled) for _time in range(2))
    texts = [choice.message.content for choice in first.choices]
    assert [choice.message.content for choice in second.choices] == texts and len(set(texts)) == 3
    streamed = {0: "", 1: "", 2: ""}
    for chunk in client.chat.completions.create(**sampled, stream=True):
        streamed[chunk.choices[0].index] += chunk.choices[0].delta.content or ""
    assert list(streamed.values()) == texts


def test_sampling_follows_temperature_top_p_and_top_k(client):
    greedy = client.chat.completions.create(**told(QUESTIONS[2])).choices[0].message.content
    for likeliest in ({"temperature": 0}, {"top_p": 0.0}, {"extra_body": {"top_k": 1}}):
        assert client.chat.completions.create(**told(QUESTIONS[2]), **likeliest).choices[0].message.content == greedy


def test_biases_and_penalties_steer_the_answer(client):
    plain = client.chat.completions.create(**told(QUESTIONS[0], logprobs=True, max_tokens=1)).choices[0]
    server_ids = client.post("/tokenize".replace("/", "../", 1), cast_to=object, body={"prompt": plain.message.content})
    [token] = server_ids["tokens"]
    other = client.chat.completions.create(**told(QUESTIONS[0], logit_bias={str(token): -100}, max_tokens=1)).choices[0]
    assert other.message.content != plain.message.content
    repeating = told("Repeat the word tea twenty times: tea tea tea tea tea tea", max_tokens=40)
    without = client.chat.completions.create(**repeating).choices[0].message.content
    for penalty in ({"frequency_penalty": 2.0}, {"presence_penalty": 2.0}, {"extra_body": {"repetition_penalty": 1.5}}):
        assert client.chat.completions.create(**repeating, **penalty).choices[0].message.content != without


def test_log_probabilities_of_chat_are_those_of_the_chatbot(client, chatbot):
    alone = chatbot.chat(told(QUESTIONS[0])["messages"], GenerationConfig(max_new_tokens=6), logprobs=3)
    asked = told(QUESTIONS[0], max_tokens=6, logprobs=True, top_logprobs=3)
    entries = client.chat.completions.create(**asked).choices[0].logprobs.content
    streamed = [
        entry
        for chunk in client.chat.completions.create(**asked, stream=True)
        if chunk.choices[0].logprobs
        for entry in chunk.choices[0].logprobs.content
    ]
    assert streamed == entries
    assert [entry.logprob for entry in entries] == [entry.logprob for entry in alone.logprobs]
    assert b"".join(bytes(entry.bytes) for entry in entries).decode() == alone.text
    assert [len(entry.top_logprobs) for entry in entries] == [3] * 6


def test_completions_go_on_with_texts_and_with_token_ids(client, chatbot):
    ids = chatbot.session.tokenizer.encode("The capital of France is")
    one = client.completions.create(model=MODEL, prompt="The capital of France is", max_tokens=6)
    many = client.completions.create(model=MODEL, prompt=[ids, ids[:-1]], max_tokens=6, n=2)
    assert [choice.index for choice in many.choices] == [0, 1, 2, 3]
    assert many.choices[0].text == many.choices[1].text == one.choices[0].text
    assert many.choices[2].text == many.choices[3].text
    assert many.usage.prompt_tokens == 2 * len(ids) - 1 and many.usage.completion_tokens == 24
    pieces = client.completions.create(model=MODEL, prompt=ids, max_tokens=6, echo=True, stream=True)
    assert "".join(chunk.choices[0].text for chunk in pieces) == "The capital of France is" + one.choices[0].text


def test_the_log_probabilities_of_a_prompt_are_those_that_measure_gives(client, chatbot):
    text = "The quick brown fox jumps over the lazy dog. 今天天气很好。" * 12
    ids = chatbot.session.tokenizer.encode(text)
    assert len(ids) > 256
    measured = [
        value
        for _start, logprobs, targets in predictions(chatbot.decoder, Passage("test", "text", tuple(ids), 1))
        for value in logprobs.gather(1, targets[:, None])[:, 0].tolist()
    ]
    client.completions.create(model=MODEL, prompt=ids, max_tokens=1)  # what is known of a prompt has no logits
    for more in ({"max_tokens": 1}, {"max_tokens": 0}):
        choice = client.completions.create(model=MODEL, prompt=ids, echo=True, logprobs=1, **more).choices[0]
        found = choice.logprobs
        first, *rest = found.token_logprobs[: len(ids)]
        assert first is None and found.top_logprobs[0] is None
        assert max(abs(one - other) for one, other in zip(rest, measured, strict=True)) < 1e-4
        assert all(value in top.values() for value, top in zip(rest, found.top_logprobs[1:]))
        assert len(found.tokens) == len(ids) + more["max_tokens"]
        assert choice.text.startswith(text) and (choice.text == text) == (more["max_tokens"] == 0)


def test_streamed_log_probabilities_of_prompts_are_those_of_the_whole_answer(client, chatbot):
    ids = chatbot.session.tokenizer.encode("The capital of France is Paris.")
    more = {
        "model": MODEL,
        "prompt": [ids * 30, ids[:3]],
        "echo": True,
        "logprobs": 2,
        "n": 2,
        "temperature": 1,
        "seed": 1,
    }
    for tokens in (4, 0):
        whole = client.completions.create(**more, max_tokens=tokens).choices
        built = [{"text": "", "finish_reason": None, "logprobs": {}} for _choice in whole]
        for chunk in client.completions.create(**more, max_tokens=tokens, stream=True):
            choice = built[chunk.choices[0].index]
            choice["text"] += chunk.choices[0].text
            choice["finish_reason"] = chunk.choices[0].finish_reason
            for name, values in (chunk.choices[0].logprobs.model_dump() if chunk.choices[0].logprobs else {}).items():
                choice["logprobs"].setdefault(name, []).extend(values)
        assert built == [choice.model_dump(include={"text", "finish_reason", "logprobs"}) for choice in whole]


def test_the_token_that_ends_an_answer_has_its_log_probability_too(client, server):
    asked = {"messages": [{"role": "user", "content": "What is 2 + 2?"}]}
    prompt = server.ask("/tokenize", asked)[2]["tokens"]
    answer = client.completions.create(model=MODEL, prompt=prompt, max_tokens=300, logprobs=0).choices[0]
    assert answer.finish_reason == "stop" and answer.logprobs.tokens[-1] == "<|im_end|>"
    assert "".join(answer.logprobs.tokens[:-1]) == answer.text


def test_texts_become_tokens_and_tokens_texts(server):
    for text in ("Hello, 世界! <|im_end|>", ""):
        status, _headers, found = server.ask("/tokenize", {"model": MODEL, "prompt": text, "return_token_strs": True})
        assert status == 200 and found["count"] == len(found["tokens"]) == len(found["token_strs"])
        assert server.ask("/detokenize", {"tokens": found["tokens"]})[2] == {"prompt": text}
    [end] = server.ask("/tokenize", {"prompt": "<|im_end|>"})[2]["tokens"]
    assert server.ask("/tokenize", {"messages": [{"role": "user", "content": "Hi"}]})[2]["tokens"].count(end) >= 1
    info = server.ask("/tokenizer_info")[2]
    assert info["eos_token"] == "<|im_end|>" and "messages" in info["chat_template"]


def test_a_response_is_the_answer_of_chat_and_its_conversation_goes_on(client):
    first = client.responses.create(model=MODEL, instructions="Be brief.", input=QUESTIONS[0], max_output_tokens=12)
    messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": QUESTIONS[0]}]
    chat = client.chat.completions.create(model=MODEL, messages=messages, max_tokens=12)
    assert first.output_text == chat.choices[0].message.content
    assert first.usage.output_tokens == chat.usage.completion_tokens
    more = {"model": MODEL, "input": "And of Italy?", "max_output_tokens": 12}
    second = client.responses.create(**more, previous_response_id=first.id)
    history = [{"role": "user", "content": QUESTIONS[0]}, *(item.model_dump() for item in first.output)]
    assert (
        client.responses.create(
            **more | {"input": [*history, {"role": "user", "content": "And of Italy?"}]}
        ).output_text
        == second.output_text
    )
    assert client.responses.retrieve(second.id).output_text == second.output_text
    client.responses.delete(first.id)
    with pytest.raises(openai.BadRequestError, match="There is no response"):
        client.responses.create(**more, previous_response_id=first.id)
    forgotten = client.responses.create(**more, store=False)
    with pytest.raises(openai.NotFoundError):
        client.responses.retrieve(forgotten.id)


def test_the_events_of_a_response_build_it_up(client):
    asked = {"model": MODEL, "input": QUESTIONS[3], "max_output_tokens": 300}
    with client.responses.stream(**asked) as stream:
        events = list(stream)
        whole = stream.get_final_response()
    assert [event.sequence_number for event in events] == list(range(len(events)))
    text = "".join(event.delta for event in events if event.type == "response.output_text.delta")
    assert text == whole.output_text == client.responses.create(**asked).output_text and whole.status == "completed"
    kinds = [event.type for event in events if event.type != "response.output_text.delta"]
    assert kinds[:2] == ["response.created", "response.in_progress"] and kinds[-1] == "response.completed"
    *_events, last = client.responses.create(**asked | {"max_output_tokens": 3}, stream=True)
    assert (last.type, last.response.incomplete_details.reason) == ("response.incomplete", "max_output_tokens")


class Person(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(extra="forbid")
    name: str
    age: int
    likes: list[Literal["tea", "coffee"]]


def test_an_answer_follows_a_schema(client):
    asked = told("Make up a person.", max_tokens=200, temperature=1.0, n=4, seed=1)
    answer = client.chat.completions.parse(**asked, response_format=Person)
    assert [choice.finish_reason for choice in answer.choices] == ["stop"] * 4
    assert all(isinstance(choice.message.parsed, Person) for choice in answer.choices)
    form = {
        "type": "json_schema",
        "name": "sum",
        "schema": {"type": "object", "properties": {"sum": {"const": 4}}, "required": ["sum"]},
    }
    response = client.responses.create(model=MODEL, input="2 + 2?", text={"format": form})
    assert json.loads(response.output_text)["sum"] == 4
    free = client.chat.completions.create(
        **told("A JSON object with a colour.", max_tokens=200, temperature=1.0, seed=3),
        response_format={"type": "json_object"},
    )
    assert free.choices[0].finish_reason == "length" or isinstance(json.loads(free.choices[0].message.content), dict)


def test_what_a_client_cannot_have_is_a_400_that_names_the_field(client, server):
    for field, value in {
        "functions": [],
        "tools": [{"type": "function", "function": {"name": "f"}}],
        "response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "tea"}}},
        "n": 0,
        "max_tokens": "8",
        "temperature": -1,
        "logit_bias": {"tea": 1},
        "stream_options": {"include_usage": True},
        "top_logprobs": 2,
        "stop": ["x"] * 17,
        "messages": [{"role": "assistant", "content": "Hello"}],
        "reasoning_effort": "high",
        "seed": 1.5,
    }.items():
        status, _headers, found = server.ask("/v1/chat/completions", told("Hello") | {field: value})
        assert (status, found["error"]["param"], found["error"]["type"]) == (400, field, "invalid_request_error"), found
    for field, value in {"suffix": "x", "best_of": 2, "prompt": [], "logprobs": 21, "max_tokens": 0}.items():
        status, _headers, found = server.ask("/v1/completions", {"prompt": "x"} | {field: value})
        assert (status, found["error"]["param"]) == (400, field), found
    for field, value in {"tools": [{"type": "web_search"}], "reasoning": {}, "input": [], "background": True}.items():
        status, _headers, found = server.ask("/v1/responses", {"input": "x"} | {field: value})
        assert (status, found["error"]["param"]) == (400, field), found
    for body in (b"{", b"[]", b"null", b"\xff"):
        assert server.ask("/v1/completions", body)[0] == 400
    with pytest.raises(openai.BadRequestError) as caught:
        client.completions.create(model=MODEL, prompt=[5] * 9000)
    assert caught.value.code == "context_length_exceeded"
    assert server.ask("/v1/completions", {"prompt": [49152]})[0] == 400
    assert server.ask("/nothing")[2]["error"]["code"] == "not_found"
    assert server.ask("/v1/chat/completions")[0] == 405


def test_null_is_as_good_as_absent(server):
    nulls = dict.fromkeys(("stop", "seed", "temperature", "logit_bias", "n", "tools"))
    assert server.chat(**nulls)["choices"] == server.chat()["choices"]


def test_an_answer_goes_on_where_the_process_of_its_tokenizer_is_killed(client, server):
    asked = told(QUESTIONS[1], max_tokens=60)
    whole = client.chat.completions.create(**asked).choices[0].message.content
    pieces = []
    for chunk in client.chat.completions.create(**asked, stream=True):
        if not pieces:
            [tokenizer] = psutil.Process(server.process.pid).children()
            tokenizer.kill()
        pieces.append(chunk.choices[0].delta.content or "")
    assert "".join(pieces) == whole


def test_a_client_that_goes_away_ends_its_answer(server):
    server.chat()
    for stream in (True, False):
        connection = server.connection()
        asked = {"model": MODEL, **STORY, "stream": stream, "n": 4, "temperature": 1.0}
        connection.request("POST", "/v1/chat/completions", json.dumps(asked), {"Content-Type": "application/json"})
        until(lambda: server.metric("itrex_requests_running", model=MODEL) == 4)
        connection.sock.close() if not stream else connection.getresponse().close()
        connection.close()
        until(lambda: server.metric("itrex_requests_running", model=MODEL) == 0)
        assert server.metric("itrex_requests_waiting", model=MODEL) == 0


def test_the_log_and_the_metrics_tell_of_a_request_without_its_text(server):
    before = server.metric("itrex_generated_tokens_total", model=MODEL)
    answer = server.chat("What is a zebra?")
    assert server.metric("itrex_generated_tokens_total", model=MODEL) == before + answer["usage"]["completion_tokens"]
    assert server.metric("itrex_requests_total", route="/v1/chat/completions", status="200") >= 1
    assert server.metric("itrex_memory_bytes") > 1 << 27 and server.metric("itrex_pass_rows_count", model=MODEL) > 0
    assert 0 < server.metric("itrex_cache_pages_used", model=MODEL) <= server.metric("itrex_cache_pages", model=MODEL)
    until(lambda: server.lines and server.lines[-1]["route"] == "/metrics")
    line = next(line for line in reversed(server.lines) if line["route"] == "/v1/chat/completions")
    assert line["model"] == MODEL and line["completion_tokens"] == answer["usage"]["completion_tokens"]
    text = answer["choices"][0]["message"]["content"]
    assert not any(text in str(line) or "zebra" in str(line) for line in server.lines)


def test_it_says_that_it_lives_and_is_ready(server):
    assert (
        server.ask("/health/live")[2] == server.ask("/health/ready")[2] == server.ask("/health")[2] == {"status": "ok"}
    )


def test_a_full_queue_is_told_with_the_time_to_come_back(package_cache):
    with serving(package_cache, "--queue", "2", "--grace", "1") as server:
        client = openai.OpenAI(base_url=f"http://127.0.0.1:{server.port}/v1", api_key="none", max_retries=0)
        with pytest.raises(openai.RateLimitError) as caught, client:
            client.completions.create(model=MODEL, prompt=[[5], [6], [7]])
        assert caught.value.response.headers["retry-after"] == "5"
        until(lambda: server.metric("itrex_requests_waiting", model=MODEL) == 0)

        # Told to end, it lets answers end, in their time, and takes no more.
        ended = threading.Event()

        def ask() -> None:
            server.ask("/v1/chat/completions", STORY)
            ended.set()

        threading.Thread(target=ask).start()
        until(lambda: server.metric("itrex_requests_running", model=MODEL) == 1)
        server.process.terminate()
        until(lambda: server.ask("/health/ready")[0] == 503)
        status, headers, found = server.ask("/v1/chat/completions", STORY)
        assert status == 503 and found["error"]["code"] == "shutting_down" and headers["retry-after"] == "5"
        assert not ended.is_set() and server.ended() == 0 and ended.wait(10)


def test_the_benchmark_of_clients_measures_this_server(server):
    run = subprocess.run(
        [sys.executable, ROOT / "benchmarks" / "clients.py", f"http://127.0.0.1:{server.port}/v1#{MODEL}"]
        + ["--counts", "1", "2", "--rounds", "1", "--tokens", "2"],
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stderr
    assert [line.split("|")[2].strip() for line in run.stdout.splitlines()[2:]] == ["1", "2"]


def test_a_mixed_load_leaves_the_server_as_it_was(server):
    run = subprocess.run(
        [sys.executable, ROOT / "benchmarks" / "load.py", f"http://127.0.0.1:{server.port}"]
        + ["--minutes", "0.05", "--clients", "3", "--pause", "0"],
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0 and "0 findings" in run.stdout, run.stdout + run.stderr
    assert "an answer that needs all" in run.stdout and "pages begins" in run.stdout
