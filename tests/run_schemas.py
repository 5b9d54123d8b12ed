"""The schemas of a run's files, for the tests that make runs."""

import functools
import json
from importlib import resources
from pathlib import Path

import jsonschema


@functools.cache
def schema(name: str) -> dict:
    return json.loads(resources.files("itrex_chat.runs").joinpath(f"{name}.schema.json").read_text("utf-8"))


def keeps_its_schemas(run: Path) -> None:
    """Raises jsonschema.ValidationError where `run.json` or a line of `answers.jsonl` is not as its schema says."""
    jsonschema.validate(json.loads((run / "run.json").read_text("utf-8")), schema("run"))
    answers = run / "answers.jsonl"
    for line in answers.read_text("utf-8").split("\n")[:-1] if answers.exists() else ():
        jsonschema.validate(json.loads(line), schema("answer"))
