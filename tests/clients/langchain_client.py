"""langchain-openai against a server."""

from typing import Literal

import pydantic
import pytest
from asked import ANSWER, BASE, CONTINUATION, CONTINUED, MODEL, QUESTION, TEXT, TOKENS, TOOLS_MODEL
from langchain_core.messages import HumanMessage, ToolMessage
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI, OpenAI


class Person(pydantic.BaseModel):
    """Somebody."""

    name: str
    likes_tea: bool


@tool
def get_weather(city: Literal["Paris", "Rome"]) -> str:
    """The weather of a city"""
    return "21 degrees"


def chat(model: str = MODEL, **more: object) -> ChatOpenAI:
    return ChatOpenAI(base_url=BASE, api_key="none", model=model, temperature=0, max_retries=0, **more)


@pytest.mark.parametrize("more", [{}, {"use_responses_api": True}], ids=["chat", "responses"])
def test_invoke_stream_and_batch(more):
    model = chat(max_tokens=TOKENS, **more)
    message = model.invoke(QUESTION)
    assert message.text == ANSWER and message.usage_metadata["output_tokens"] <= TOKENS
    assert "".join(chunk.text for chunk in model.stream(QUESTION)) == ANSWER
    assert [each.text for each in model.batch([QUESTION] * 3)] == [ANSWER] * 3


def test_completions():
    model = OpenAI(base_url=BASE, api_key="none", model=MODEL, temperature=0, max_tokens=CONTINUED, max_retries=0)
    assert model.invoke(TEXT) == "".join(model.stream(TEXT)) == CONTINUATION


def test_structured_output():
    found = chat(max_tokens=120).with_structured_output(Person, method="json_schema").invoke(QUESTION)
    assert isinstance(found, Person)


def test_a_tool_is_called_and_its_result_sent_back():
    model = chat(TOOLS_MODEL, max_tokens=120)
    said = [HumanMessage(QUESTION)]
    answer = model.bind_tools([get_weather], tool_choice="any", parallel_tool_calls=False, strict=True).invoke(said)
    [call] = answer.tool_calls
    assert call["name"] == "get_weather" and call["args"]["city"] in ("Paris", "Rome")
    said += [answer, ToolMessage(get_weather.invoke(call["args"]), tool_call_id=call["id"])]
    assert model.bind_tools([get_weather]).invoke(said).text is not None
