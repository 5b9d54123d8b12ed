"""Tokens by themselves, and answers that have to follow a JSON schema, for the vocabularies of all families."""

import json

import jsonschema
import pytest
import torch

from itrex_chat.chat import load_tokenizer
from itrex_chat.chat.calls import Calls
from itrex_chat.chat.tools import FORMATS
from itrex_chat.foundation.errors import GenerationError
from itrex_chat.generation.grammar import Grammars

FAMILIES = ("chatglm3", "qwen", "baichuan2", "qwen2", "glm4")
SIZE = 640
SCHEMA = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 6},
        "age": {"type": "integer", "minimum": 0, "maximum": 150},
        "likes": {"type": "array", "items": {"enum": ["tea", "茶"]}, "maxItems": 3},
    },
    "required": ["name", "age", "likes"],
    "additionalProperties": False,
}


@pytest.fixture(scope="module", params=FAMILIES)
def tokenizer(request, models):
    found = load_tokenizer(models(request.param), request.param)
    yield found
    found.close()


def test_the_bytes_of_tokens_join_to_the_text(tokenizer):
    text = "Hello, 你好 ½ \n\tdef f(x): 🦊 <|im_end|>"
    assert b"".join(tokenizer.token_bytes(tokenizer.encode(text))).decode().removeprefix(" ") == text
    assert tokenizer.token_bytes([10**6]) == [b""]
    control = [token for token in tokenizer.control_ids() if token < SIZE]
    assert control and all(tokenizer.token_bytes(control)) and not set(control) & set(tokenizer.encode(text))


def test_whatever_is_chosen_of_what_is_allowed_follows_the_schema(tokenizer):
    make = Grammars(tokenizer, SIZE).json(SCHEMA)
    for seed in range(8):
        ids = chosen(make(), seed, tokenizer)
        jsonschema.validate(json.loads(b"".join(tokenizer.token_bytes(ids))), SCHEMA)


def chosen(constraint, seed: int, tokenizer) -> list[int]:
    """Tokens drawn from those that may come, until an end may."""
    control = {*tokenizer.control_ids(), *tokenizer.stop_ids}
    ids, chance = [], torch.Generator().manual_seed(seed)
    while True:
        allowed = constraint.allowed().nonzero()[:, 0]
        token = int(allowed[torch.randint(len(allowed), (), generator=chance)])
        if token in control:
            assert token in tokenizer.stop_ids
            return ids
        ids.append(token)
        constraint.take(token)


FUNCTIONS = {"look_up": SCHEMA, "look": {"type": "object", "properties": {}, "additionalProperties": False}}


@pytest.mark.parametrize("form, parallel", [("tagged", True), ("tagged", False), ("coded", True), ("bare", True)])
def test_whatever_is_chosen_where_calls_are_required_is_calls_whose_arguments_follow_their_schemas(
    tokenizer, form, parallel
):
    make = Grammars(tokenizer, SIZE).calls(FORMATS[form], FUNCTIONS, required=True, parallel=parallel)
    counts = set()
    for seed in range(16):
        ids = chosen(make(), seed, tokenizer)
        calls = Calls(FORMATS[form], list(FUNCTIONS))
        found = [*calls.add(b"".join(tokenizer.token_bytes(ids)).decode()), *calls.end(complete=True)]
        for call in found:
            jsonschema.validate(call.arguments, FUNCTIONS[call.name])
        counts.add(len(found))
    assert min(counts) == 1 and (max(counts) > 1) == (parallel and form == "tagged")


def test_a_call_that_a_model_begins_of_itself_is_held_to_its_schema(models):
    tokenizer = load_tokenizer(models("qwen2"), "qwen2")
    grammars = Grammars(tokenizer, SIZE)
    good = '<tool_call>\n{"name": "look", "arguments": {}}\n</tool_call>'
    answers = {"": True, "Hi <tool": True, "Hi " + good: True, good.replace("{}", "{1"): False}
    for parallel, more in ((True, True), (False, False)):
        make = grammars.calls(FORMATS["tagged"], FUNCTIONS, required=False, parallel=parallel)
        for answer, can_be in (answers | {f"{good}\n{good}": more}).items():
            assert is_followed(make(), tokenizer, answer) == can_be, answer
    schema = {"type": "object", "properties": {"a": {"const": 1}}, "required": ["a"]}
    make = grammars.calls(FORMATS["tagged"], FUNCTIONS, required=False, parallel=True, schema=schema)
    for answer, can_be in {'{"a": 1}': True, good: True, "Hi": False, '{"a": 2}': False}.items():
        assert is_followed(make(), tokenizer, answer) == can_be, answer


def test_bare_json_is_held_to_a_schema_where_it_begins_a_call_of_a_function(models):
    tokenizer = load_tokenizer(models("qwen2"), "qwen2")
    make = Grammars(tokenizer, SIZE).calls(FORMATS["bare"], FUNCTIONS, required=False, parallel=False)
    good = '{"name": "look", "parameters": {}}'
    answers = {'{"name": "Ann", "parameters": 1': True, "Hi": True, good: True, good.replace("{}", "{1"): False}
    for answer, can_be in answers.items():
        assert is_followed(make(), tokenizer, answer) == can_be, answer


def is_followed(constraint, tokenizer, text: str) -> bool:
    for token in tokenizer.encode(text):
        if not constraint.allowed()[token]:
            return False
        constraint.take(token)
    return bool(constraint.allowed()[sorted(tokenizer.stop_ids)].any())


def nested(depth: int) -> dict:
    schema: dict = {"type": "string"}
    for _level in range(depth):
        schema = {"type": "object", "properties": {"a": schema}, "required": ["a"]}
    return schema


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "tea"},
        {"$ref": "http://evil.example/x.json"},
        {"$ref": "file:///etc/passwd"},
        nested(300),
        nested(900),
        {"allOf": [{"anyOf": [{"properties": {f"{i}{j}": {"type": "string"}}} for j in range(6)]} for i in range(8)]},
    ],
)
def test_a_schema_that_cannot_be_followed_is_refused(schema, models):
    tokenizer = load_tokenizer(models("qwen2"), "qwen2")
    with pytest.raises(GenerationError, match="The JSON schema cannot be followed"):
        Grammars(tokenizer, SIZE).json(schema)().allowed()
