"""The command llm against a server."""

import json
import os
import subprocess
import sys

import pytest
from asked import ANSWER, BASE, CITY, MODEL, QUESTION, TOKENS, TOOLS_MODEL


@pytest.fixture
def llm(tmp_path):
    """Runs the command with models that are served; its output."""
    known = [
        {"model_id": name, "model_name": model, "api_base": BASE, "supports_tools": True, "supports_schema": True}
        for name, model in (("plain", MODEL), ("tools", TOOLS_MODEL))
    ]
    (tmp_path / "extra-openai-models.yaml").write_text(json.dumps(known), "utf-8")

    def run(*arguments: str, given: str = "") -> str:
        found = subprocess.run(
            [sys.executable, "-m", "llm", *arguments],
            capture_output=True,
            text=True,
            input=given,
            env=os.environ | {"LLM_USER_PATH": str(tmp_path)},
        )
        assert found.returncode == 0, found.stderr
        return found.stdout

    return run


@pytest.mark.parametrize("how", [[], ["--no-stream"]])
def test_a_question(llm, how):
    assert llm("-m", "plain", "-o", "max_tokens", str(TOKENS), *how, QUESTION).strip() == ANSWER.strip()


def test_a_conversation_goes_on(llm):
    llm("-m", "plain", "-o", "max_tokens", "8", QUESTION)
    assert llm("-c", "-o", "max_tokens", "8", "And of Italy?").strip()


def test_a_schema(llm):
    found = json.loads(llm("-m", "plain", "--schema", json.dumps(CITY), "-o", "max_tokens", "60", QUESTION))
    assert found["city"] in ("Paris", "Rome")


def test_tools_are_offered(llm):
    code = 'def get_weather(city: str) -> str:\n    "The weather of a city"\n    return "21 degrees"\n'
    assert llm("-m", "tools", "--functions", code, "-o", "max_tokens", "40", QUESTION).strip()
