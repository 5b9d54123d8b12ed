"""Tokens by themselves, and answers that have to follow a JSON schema, for the vocabularies of all families."""

import json

import jsonschema
import pytest
import torch

from itrex_chat.chat import load_tokenizer
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
    control = {*tokenizer.control_ids(), *tokenizer.stop_ids}
    for seed in range(8):
        constraint, ids = make(), []
        chance = torch.Generator().manual_seed(seed)
        while True:
            allowed = constraint.allowed().nonzero()[:, 0]
            token = int(allowed[torch.randint(len(allowed), (), generator=chance)])
            if token in control:
                break
            ids.append(token)
            constraint.take(token)
        assert token in tokenizer.stop_ids
        jsonschema.validate(json.loads(b"".join(tokenizer.token_bytes(ids))), SCHEMA)


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
