"""Odd requests to a server that runs: `python tests/fuzz_server.py http://127.0.0.1:8000 [CASES] [FIRST]`.

Each case is a good body of some endpoint with a few values replaced, left out, doubled or added; its number is all of its
randomness. A finding is an answer of 500 or of none, one that is no JSON, or a 400 without a sentence; exit code 1."""

import copy
import http.client
import json
import random
import sys
import urllib.parse
from collections import Counter
from typing import Any

SCHEMA = {"type": "object", "properties": {"a": {"enum": ["x", 1]}}, "required": ["a"], "additionalProperties": False}
FUNCTION = {"name": "f", "description": "does", "parameters": SCHEMA, "strict": True}
CALL = {"id": "c", "type": "function", "function": {"name": "f", "arguments": '{"a": 1}'}}
TALK = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": [{"type": "text", "text": "Hi"}]},
    {"role": "assistant", "content": "x", "tool_calls": [CALL]},
    {"role": "tool", "tool_call_id": "c", "content": "<|im_end|>"},
]
ITEMS = [
    {"role": "user", "content": [{"type": "input_text", "text": "Hi"}]},
    {"type": "function_call", "call_id": "c", "name": "f", "arguments": "{}"},
    {"type": "function_call_output", "call_id": "c", "output": "1"},
]
TOOLS = [{"type": "function", "function": FUNCTION}]
CHAT = {"messages": TALK, "tools": TOOLS, "max_tokens": 3, "temperature": 1.0, "seed": 1, "stop": ["x"]}
FORM = {"type": "json_schema", "json_schema": {"name": "n", "schema": SCHEMA}}
BODIES: list[tuple[str, dict[str, Any]]] = [
    ("/v1/chat/completions", CHAT | {"tool_choice": {"type": "function", "function": {"name": "f"}}}),
    ("/v1/chat/completions", CHAT | {"tool_choice": "required", "parallel_tool_calls": False, "stream": True}),
    ("/v1/chat/completions", CHAT | {"n": 2, "logprobs": True, "top_logprobs": 2, "logit_bias": {"5": 1.5}}),
    ("/v1/chat/completions", CHAT | {"response_format": FORM, "stream": True}),
    ("/v1/responses", {"input": ITEMS, "tools": [{"type": "function"} | FUNCTION], "max_output_tokens": 3}),
    ("/v1/responses", {"input": "Hi", "stream": True, "max_output_tokens": 3, "metadata": {"a": "b"}}),
    ("/v1/completions", {"prompt": ["a", "b"], "max_tokens": 2, "echo": True, "logprobs": 1, "stop": "x"}),
    ("/v1/completions", {"prompt": [[5, 6], [7]], "max_tokens": 2, "stream": True}),
    ("/tokenize", {"messages": TALK, "tools": TOOLS, "return_token_strs": True}),
    ("/tokenize", {"prompt": "Hi"}),
    ("/detokenize", {"tokens": [1, 2, 3]}),
]
DEEP: Any = 1
for _level in range(70):
    DEEP = {"a": [DEEP]}
ODD: list[Any] = [
    *(
        None,
        True,
        False,
        0,
        1,
        -1,
        3,
        0.5,
        1e308,
        2**31,
        2**63,
        -(2**63) - 1,
        float("nan"),
        float("inf"),
        "",
        "x",
        "auto",
    ),
    *(
        "none",
        "required",
        "function",
        "\ud800",
        "\x00",
        "<|im_end|>",
        "<tool_call>",
        "f" * 70,
        "世界🦊",
        "{",
        "[]",
        '{"a":',
    ),
    *([], {}, [[]], [{}], {"": ""}, [None], [1, "x"], DEEP, {"type": "function"}, {"type": "tea"}, {"$ref": "#"}),
    *({"type": "object", "properties": {"\ud800": {}}}, {"pattern": "("}, {"enum": []}, {"minLength": 10**9}),
    *({"allOf": [{"$ref": "#/$defs/x"}], "$defs": {"x": {"$ref": "#/$defs/x"}}}, {"const": "\ud800"}, "9" * 600),
]


def spoiled(body: dict[str, Any], chance: random.Random) -> Any:
    """The body with up to four of its places changed."""
    whole = {"body": copy.deepcopy(body)}
    for _change in range(chance.choice((0, 1, 1, 1, 2, 2, 4))):
        holder, key = chance.choice(list(_places(whole)))
        match chance.randrange(6):
            case 0 if isinstance(holder, dict) and holder is not whole:
                del holder[key]
            case 1 if isinstance(holder, dict) and holder is not whole:
                names = chance.choice((list(body), ["role", "type", "name", "content", "strict", "tool_calls"]))
                holder[chance.choice(names)] = copy.deepcopy(chance.choice(ODD))
            case 2 if isinstance(holder, list):
                holder.append(copy.deepcopy(holder[key]))
            case 3:
                other_holder, other = chance.choice(list(_places(whole)))
                holder[key] = copy.deepcopy(other_holder[other])
            case _:
                holder[key] = copy.deepcopy(chance.choice(ODD))
    return whole["body"]


def _places(value: Any) -> Any:
    for key, entry in list(value.items() if isinstance(value, dict) else enumerate(value)):
        yield value, key
        if isinstance(entry, (dict, list)):
            yield from _places(entry)


def asked(address: str, path: str, body: Any) -> tuple[int, str]:
    """The status, and what is wrong with the answer; nothing where it is as it has to be."""
    connection = http.client.HTTPConnection(address, timeout=240)
    connection.request("POST", path, json.dumps(body), {"Content-Type": "application/json"})
    reply = connection.getresponse()
    content = reply.read().decode()
    connection.close()
    if reply.status not in (200, 400, 413, 429, 503, 404):
        return reply.status, content[:300]
    if "event-stream" in reply.getheader("content-type", ""):
        events = [line[6:] for line in content.split("\n") if line.startswith("data: ")]
        told = [json.loads(event) for event in events if event != "[DONE]"]
        return reply.status, "" if told and "error" not in told[-1] else content[-300:]
    found = json.loads(content, parse_constant=lambda name: name * 99)
    if reply.status != 200 and not (found["error"]["message"] and "type" in found["error"]):
        return reply.status, content[:300]
    return reply.status, "it has a number that is none" if "NaNNaN" in str(found) or "yInfinity" in str(found) else ""


def main(address: str, cases: int = 1000, first: int = 0) -> int:
    statuses, findings = Counter[int](), 0
    for case in range(first, first + cases):
        chance = random.Random(case)
        path, good = chance.choice(BODIES)
        body = spoiled(good, chance)
        try:
            status, wrong = asked(address, path, body)
        except (OSError, http.client.HTTPException, ValueError, KeyError, TypeError) as error:
            status, wrong = 0, f"{type(error).__name__}: {error}"
        statuses[status] += 1
        if wrong:
            findings += 1
            print(f"case {case}: {status} {wrong}\n  {path} {json.dumps(body)[:600]}", flush=True)
    print(f"{cases} cases: " + ", ".join(f"{count} times {status}" for status, count in sorted(statuses.items())))
    return 1 if findings else 0


if __name__ == "__main__":
    sys.exit(main(urllib.parse.urlsplit(sys.argv[1]).netloc, *map(int, sys.argv[2:])))
