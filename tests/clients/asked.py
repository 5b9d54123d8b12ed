"""What the checks of all clients share: where the server is, and what this program says to the same questions."""

import json
import os
from pathlib import Path

BASE = os.environ["CLIENTS_BASE"]  # http://127.0.0.1:PORT/v1
EXPECTED = json.loads(Path(os.environ["CLIENTS_EXPECTED"]).read_text("utf-8"))
MODEL, TOOLS_MODEL = "smollm2-135m:int4", "knows-tools:int4"
QUESTION, ANSWER, TOKENS = EXPECTED["question"], EXPECTED["answer"], EXPECTED["tokens"]
TEXT, CONTINUATION, CONTINUED = EXPECTED["text"], EXPECTED["continuation"], EXPECTED["continued"]
MESSAGES = [{"role": "user", "content": QUESTION}]
CITY = {"type": "object", "properties": {"city": {"enum": ["Paris", "Rome"]}}, "required": ["city"], "additionalProperties": False}  # fmt: skip
WEATHER = {"name": "get_weather", "description": "The weather of a city", "parameters": CITY}
TOOLS = [{"type": "function", "function": WEATHER}]


def checked(name: str, arguments: str | dict) -> None:
    """A call has to be one of the function above."""
    told = json.loads(arguments) if isinstance(arguments, str) else arguments
    assert name == "get_weather" and told.keys() == {"city"} and told["city"] in ("Paris", "Rome")
