"""litellm against a server."""

import json

import litellm
import pytest
from asked import (
    ANSWER,
    BASE,
    CITY,
    CONTINUATION,
    CONTINUED,
    MESSAGES,
    MODEL,
    QUESTION,
    TEXT,
    TOKENS,
    TOOLS,
    TOOLS_MODEL,
    checked,
)

SERVER = {"api_base": BASE, "api_key": "none", "num_retries": 0}


def test_chat_and_its_stream():
    asked = {"model": f"openai/{MODEL}", "messages": MESSAGES, "max_tokens": TOKENS, **SERVER}
    assert litellm.completion(**asked).choices[0].message.content == ANSWER
    pieces = [chunk.choices[0].delta.content or "" for chunk in litellm.completion(**asked, stream=True)]
    assert "".join(pieces) == ANSWER and len(pieces) > 2


def test_completions():
    asked = {"model": f"text-completion-openai/{MODEL}", "prompt": TEXT, "max_tokens": CONTINUED}
    assert litellm.text_completion(**asked, **SERVER).choices[0].text == CONTINUATION


def test_responses():
    response = litellm.responses(model=f"openai/{MODEL}", input=QUESTION, max_output_tokens=TOKENS, **SERVER)
    assert response.output_text == ANSWER


def test_structured_output():
    form = {"type": "json_schema", "json_schema": {"name": "city", "schema": CITY, "strict": True}}
    asked = {"model": f"openai/{MODEL}", "messages": MESSAGES, "max_tokens": 60, "response_format": form, **SERVER}
    assert json.loads(litellm.completion(**asked).choices[0].message.content)["city"] in ("Paris", "Rome")


def test_tools():
    asked = {"model": f"openai/{TOOLS_MODEL}", "messages": MESSAGES, "tools": TOOLS, "max_tokens": 120, **SERVER}
    answer = litellm.completion(**asked, tool_choice="required", parallel_tool_calls=False).choices[0]
    [call] = answer.message.tool_calls
    assert answer.finish_reason == "tool_calls"
    checked(call.function.name, call.function.arguments)


def test_errors_are_its_exceptions():
    with pytest.raises(litellm.BadRequestError, match="temperature"):
        litellm.completion(model=f"openai/{MODEL}", messages=MESSAGES, temperature=-1, **SERVER)
