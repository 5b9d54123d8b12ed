"""The schemas of a run's files, for the tests that make runs."""

import functools
import json
from importlib import resources
from pathlib import Path

from jsonschema import Draft202012Validator


@functools.cache
def schema(name: str) -> dict:
    return json.loads(resources.files("itrex_chat.runs").joinpath(f"{name}.schema.json").read_text("utf-8"))


@functools.cache
def _validator(name: str) -> Draft202012Validator:
    Draft202012Validator.check_schema(schema(name))
    return Draft202012Validator(schema(name))


@functools.cache  # many tests make the same run
def _validate(name: str, text: str) -> None:
    _validator(name).validate(json.loads(text))


def keeps_its_schemas(run: Path) -> None:
    """Raises jsonschema.ValidationError where `run.json` or a line of `answers.jsonl` is not as its schema says."""
    _validate("run", (run / "run.json").read_text("utf-8"))
    answers = run / "answers.jsonl"
    for line in answers.read_text("utf-8").split("\n")[:-1] if answers.exists() else ():
        _validate("answer", line)
