"""Functions that a served model may call: the embedded model with a template that knows them, and clients as they are."""

import json
from pathlib import Path

import jsonschema
import openai
import pydantic
import pytest
from moments import until
from served import embedded, serving, with_template

TEMPLATE = (Path(__file__).parent / "tools.jinja").read_text("utf-8")
PARAMETERS = {
    "type": "object",
    "properties": {
        "city": {"type": "string", "minLength": 1, "maxLength": 20},
        "unit": {"enum": ["celsius", "fahrenheit"]},
    },
    "required": ["city", "unit"],
    "additionalProperties": False,
}
WEATHER = {"name": "get_weather", "description": "The weather of a city", "parameters": PARAMETERS}
TIME = {"name": "get_time", "parameters": {"type": "object", "properties": {}, "additionalProperties": False}}
TOOLS = [{"type": "function", "function": WEATHER}, {"type": "function", "function": TIME}]
FLAT = [{"type": "function", **tool["function"]} for tool in TOOLS]
QUESTION = [{"role": "user", "content": "What is the weather in Paris?"}]
NAMED = {"type": "function", "function": {"name": "get_weather"}}


@pytest.fixture(scope="module")
def server(package_cache, tmp_path_factory):
    model = with_template(embedded(package_cache), TEMPLATE, tmp_path_factory.mktemp("tools") / "knows-tools.gguf")
    with serving(package_cache, model=str(model)) as served:
        yield served


@pytest.fixture
def client(server):
    with openai.OpenAI(base_url=f"http://127.0.0.1:{server.port}/v1", api_key="none", max_retries=0) as found:
        yield found


def asked(**more: object) -> dict:
    return {"model": "knows-tools:int4", "messages": QUESTION, "tools": TOOLS, "max_tokens": 120} | more


def check(name: str, arguments: str) -> None:
    jsonschema.validate(json.loads(arguments), {"get_weather": PARAMETERS, "get_time": TIME["parameters"]}[name])


@pytest.mark.parametrize("choice", ["required", NAMED], ids=["required", "named"])
def test_a_call_that_is_required_comes_and_follows_its_schema(client, server, choice):
    more = asked(tool_choice=choice, parallel_tool_calls=False)
    for sampled in ({}, {"temperature": 1.5, "seed": 3, "n": 3}):
        for answer in client.chat.completions.create(**more, **sampled).choices:
            [call] = answer.message.tool_calls
            assert (answer.finish_reason, answer.message.content, call.type) == ("tool_calls", None, "function")
            assert choice == "required" or call.function.name == "get_weather"
            check(call.function.name, call.function.arguments)
    until(lambda: server.lines and server.lines[-1].get("completion_tokens"))
    assert server.lines[-1]["finish"] == ["tool_calls"]


def test_a_stream_of_calls_builds_up_those_of_the_whole_answer(client):
    more = asked(tool_choice="required", max_tokens=90)
    whole = client.chat.completions.create(**more).choices[0]
    expected = [(call.function.name, call.function.arguments) for call in whole.message.tool_calls]
    deltas, built = [], dict[int, list[str]]()
    for chunk in client.chat.completions.create(**more, stream=True):
        deltas += chunk.choices[0].delta.tool_calls or []
    for call in deltas:
        name, arguments = built.setdefault(call.index, ["", ""])
        built[call.index] = [name + (call.function.name or ""), arguments + call.function.arguments]
    assert [tuple(built[index]) for index in sorted(built)] == expected and chunk.choices[
        0
    ].finish_reason == whole.finish_reason
    assert len({call.id for call in deltas if call.id}) == len(expected) > 1
    with client.chat.completions.stream(**more | {"parallel_tool_calls": False}) as stream:
        list(stream)
        [choice] = stream.get_final_completion().choices
    assert [(call.function.name, call.function.arguments) for call in choice.message.tool_calls] == expected[:1]


def test_a_conversation_goes_on_with_the_result_of_a_call(client, server):
    answer = client.chat.completions.create(**asked(tool_choice=NAMED, parallel_tool_calls=False)).choices[0].message
    [call] = answer.tool_calls
    said = [
        *QUESTION,
        answer.model_dump(),
        {"role": "tool", "tool_call_id": call.id, "content": "21 <|im_end|> degrees"},
    ]
    final = client.chat.completions.create(**asked(messages=said, max_tokens=24)).choices[0]
    assert final.finish_reason in ("stop", "length") and final.message.content
    ends = [
        server.ask("/tokenize", {"messages": messages, "tools": TOOLS})[2]["tokens"].count(2)
        for messages in (said, [*said[:2], said[2] | {"content": "21 degrees"}])
    ]
    assert ends[0] == ends[1] > 0


def test_tools_are_told_unless_none_is_to_be_chosen(client, server):
    used = [
        client.chat.completions.create(**asked(max_tokens=1, **more)).usage.prompt_tokens
        for more in ({}, {"tool_choice": "auto"}, {"tool_choice": "none"}, {"tools": []}, {"tools": openai.omit})
    ]
    assert used[0] == used[1] > used[2] == used[3] == used[4]
    free = client.chat.completions.create(**asked(max_tokens=24)).choices[0]
    assert free.message.content and not free.message.tool_calls


def test_what_a_model_calls_of_itself_is_found_and_follows_the_schema_of_a_strict_function(client, server):
    """The model is led to a call by its bias for the token that calls begin with."""
    [token, *_rest] = server.ask("/tokenize", {"prompt": "<tool_call>"})[2]["tokens"]
    more = asked(logit_bias={str(token): 100}, temperature=1.0, seed=1, max_tokens=80, logprobs=True)
    strict = [{"type": "function", "function": WEATHER | {"strict": True}}]
    free = client.chat.completions.create(**more).choices[0]
    assert free.message.content.startswith("<<") and len(free.logprobs.content) == 80
    held = client.chat.completions.create(**more | {"tools": strict, "parallel_tool_calls": False}).choices[0]
    for call in held.message.tool_calls or []:
        check(call.function.name, call.function.arguments)
    streamed = list(
        client.chat.completions.create(**more | {"tools": strict, "parallel_tool_calls": False}, stream=True)
    )
    entries = [entry for chunk in streamed if chunk.choices[0].logprobs for entry in chunk.choices[0].logprobs.content]
    assert entries == held.logprobs.content and streamed[-1].choices[0].finish_reason == held.finish_reason


class Weather(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(extra="forbid")
    city: str


def test_a_function_of_pydantic_comes_back_as_its_model(client):
    tool = openai.pydantic_function_tool(Weather, name="weather")
    answer = client.chat.completions.parse(**asked(tools=[tool], tool_choice="required", parallel_tool_calls=False))
    [call] = answer.choices[0].message.tool_calls
    assert isinstance(call.function.parsed_arguments, Weather)


def test_responses_have_calls_as_items_and_take_their_results(client):
    more = {"model": "knows-tools:int4", "tools": FLAT, "max_output_tokens": 120}
    forced = more | {"tool_choice": {"type": "function", "name": "get_weather"}, "parallel_tool_calls": False}
    first = client.responses.create(**forced, input=QUESTION)
    [item] = first.output
    assert (item.type, item.name, item.status, first.status) == (
        "function_call",
        "get_weather",
        "completed",
        "completed",
    )
    check(item.name, item.arguments)
    result = {"type": "function_call_output", "call_id": item.call_id, "output": "21 degrees"}
    going = client.responses.create(**more | {"max_output_tokens": 16}, input=[result], previous_response_id=first.id)
    whole = client.responses.create(**more | {"max_output_tokens": 16}, input=[*QUESTION, item.model_dump(), result])
    assert going.output_text == whole.output_text != "" and going.usage.input_tokens == whole.usage.input_tokens
    with client.responses.stream(**forced, input=QUESTION) as stream:
        events = list(stream)
        last = stream.get_final_response()
    assert [event.sequence_number for event in events] == list(range(len(events)))
    assert [event.type for event in events[2:-1]] == [
        "response.output_item.added",
        "response.function_call_arguments.delta",
        "response.function_call_arguments.done",
        "response.output_item.done",
    ]
    assert (last.output[0].name, last.output[0].arguments) == (item.name, item.arguments)


def test_an_answer_that_ends_within_a_required_call_is_text(client):
    answer = client.chat.completions.create(**asked(tool_choice="required", max_tokens=8)).choices[0]
    assert answer.finish_reason == "length" and answer.message.content.startswith("<tool_call>")
    assert not answer.message.tool_calls


DEEP: dict = {"type": "object"}
for _level in range(80):
    DEEP = {"type": "object", "properties": {"a": DEEP}}


def function(**more: object) -> list[dict]:
    return [{"type": "function", "function": {"name": "f"} | more}]


def test_what_cannot_be_called_is_a_400_that_names_the_field(server):
    result = {"role": "tool", "tool_call_id": "x", "content": "1"}
    call = {"id": "x", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    wrong: list[tuple[str, dict]] = [
        ("tools", {"tools": [{"type": "web_search"}]}),
        ("tools", {"tools": function(name="a b")}),
        ("tools", {"tools": function(name="f\n")}),
        ("tools", {"tools": function(name="")}),
        ("tools", {"tools": function(parameters=[])}),
        ("tools", {"tools": function(parameters=DEEP)}),
        ("tools", {"tools": function() * 2}),
        ("tools", {"tools": [TOOLS[0]] * 129}),
        ("tools", {"tools": function(parameters={"type": "tea"}), "tool_choice": "required"}),
        ("tools", {"tools": function(parameters={"type": "array", "minItems": 5}, strict=True)}),
        ("tools", {"tools": function(description="x" * 2_000_000)}),
        ("tool_choice", {"tool_choice": "required", "tools": []}),
        ("tool_choice", {"tool_choice": {"type": "function", "function": {"name": "g"}}}),
        ("tool_choice", {"tool_choice": "always"}),
        ("parallel_tool_calls", {"parallel_tool_calls": "no"}),
        ("messages", {"messages": [*QUESTION, result]}),
        ("messages", {"messages": [*QUESTION, {"role": "assistant", "tool_calls": [call]}, result | {"tool_call_id": "y"}]}),
        ("messages", {"messages": [{"role": "user", "content": "x", "tool_calls": [call]}]}),
        ("messages", {"messages": [{"role": "user"}]}),
        ("messages", {"messages": [{"role": "tool", "content": "x"}]}),
        *(
            ("messages", {"messages": [*QUESTION, {"role": "assistant", "tool_calls": [call | {"function": {"name": "f", "arguments": text}}]}, result]})
            for text in ("{", "[]", '{"a": NaN}', "[" * 9000, '{"a":' * 90 + "1" + "}" * 90, "9" * 9000)
        ),
    ]  # fmt: skip
    for field, more in wrong:
        status, _headers, found = server.ask("/v1/chat/completions", asked(**more))
        assert (status, found["error"]["param"]) == (400, field), (more, found)
    for field, more in (
        ("input", {"input": [{"type": "function_call_output", "call_id": "x", "output": "1"}]}),
        ("input", {"input": [{"type": "function_call", "call_id": "x", "name": "f", "arguments": "["}]}),
        ("input", {"input": [{"type": "reasoning", "summary": []}]}),
        ("tools", {"tools": TOOLS, "input": "x"}),
        ("tool_choice", {"tools": FLAT, "input": "x", "tool_choice": NAMED}),
    ):
        status, _headers, found = server.ask("/v1/responses", more)
        assert (status, found["error"]["param"]) == (400, field), (more, found)
