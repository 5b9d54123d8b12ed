"""The openai package against a server."""

from typing import Literal

import openai
import pydantic
import pytest
from asked import (
    ANSWER,
    BASE,
    CONTINUATION,
    CONTINUED,
    MESSAGES,
    MODEL,
    QUESTION,
    TEXT,
    TOKENS,
    TOOLS,
    TOOLS_MODEL,
    WEATHER,
    checked,
)


class Person(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(extra="forbid")
    name: str
    likes: Literal["tea", "coffee"]


@pytest.fixture
def client():
    with openai.OpenAI(base_url=BASE, api_key="none", max_retries=0) as found:
        yield found


def test_chat(client):
    answer = client.chat.completions.create(model=MODEL, messages=MESSAGES, max_tokens=TOKENS)
    assert answer.choices[0].message.content == ANSWER and answer.usage.completion_tokens <= TOKENS


def test_chat_in_a_stream(client):
    stream = client.chat.completions.create(
        model=MODEL, messages=MESSAGES, max_tokens=TOKENS, stream=True, stream_options={"include_usage": True}
    )
    chunks = list(stream)
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices) == ANSWER
    assert chunks[-1].usage.completion_tokens <= TOKENS


def test_completions(client):
    asked = {"model": MODEL, "prompt": TEXT, "max_tokens": CONTINUED}
    assert client.completions.create(**asked).choices[0].text == CONTINUATION
    assert "".join(chunk.choices[0].text for chunk in client.completions.create(**asked, stream=True)) == CONTINUATION


def test_responses_and_their_stream(client):
    asked = {"model": MODEL, "input": QUESTION, "max_output_tokens": TOKENS}
    response = client.responses.create(**asked)
    assert response.output_text == ANSWER
    with client.responses.stream(**asked) as stream:
        assert "".join(event.delta for event in stream if event.type == "response.output_text.delta") == ANSWER
    more = client.responses.create(**asked | {"input": "And of Italy?"}, previous_response_id=response.id)
    assert more.output_text and more.previous_response_id == response.id


def test_structured_output(client):
    asked = {"model": MODEL, "max_tokens": 120, "temperature": 1, "seed": 1}
    answer = client.chat.completions.parse(**asked, messages=MESSAGES, response_format=Person)
    assert isinstance(answer.choices[0].message.parsed, Person)
    parsed = client.responses.parse(model=MODEL, input=QUESTION, text_format=Person, max_output_tokens=120)
    assert isinstance(parsed.output_parsed, Person)


def test_tools_whole_in_a_stream_and_in_responses(client):
    asked = {
        "model": TOOLS_MODEL,
        "messages": MESSAGES,
        "tools": TOOLS,
        "tool_choice": "required",
        "parallel_tool_calls": False,
    }
    [call] = client.chat.completions.create(**asked).choices[0].message.tool_calls
    checked(call.function.name, call.function.arguments)
    with client.chat.completions.stream(**asked) as stream:
        done = [event for event in stream if event.type == "tool_calls.function.arguments.done"]
    checked(done[0].name, done[0].arguments)
    result = {"role": "tool", "tool_call_id": call.id, "content": "21 degrees"}
    said = [*MESSAGES, {"role": "assistant", "tool_calls": [call.model_dump()]}, result]
    assert client.chat.completions.create(model=TOOLS_MODEL, messages=said, tools=TOOLS, max_tokens=12).choices
    response = client.responses.create(
        model=TOOLS_MODEL,
        input=QUESTION,
        tools=[{"type": "function", "strict": True} | WEATHER],
        tool_choice="required",
        parallel_tool_calls=False,
    )
    checked(response.output[0].name, response.output[0].arguments)


def test_errors_are_its_exceptions(client):
    with pytest.raises(openai.NotFoundError):
        client.chat.completions.create(model="gpt-5", messages=MESSAGES)
    with pytest.raises(openai.BadRequestError) as error:
        client.chat.completions.create(model=MODEL, messages=MESSAGES, extra_body={"best_of": 2})
    assert error.value.param == "best_of"
