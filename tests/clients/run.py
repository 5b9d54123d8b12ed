"""Real clients against a real server of the embedded model: `python tests/clients/run.py [FILE …]`, or `make clients`.

Their packages are in an environment of their own, in the versions of requirements.txt, which is made in the cache where it is
missing. What they are told is compared with what this program gives in this process.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent), str(HERE.parents[1] / "benchmarks")]

from measuring.environments import Environment  # noqa: E402
from measuring.processes import Unavailable  # noqa: E402
from served import embedded, serving, with_template  # noqa: E402

from itrex_chat.foundation.places import cache_home  # noqa: E402
from itrex_chat.generation.loop import generate  # noqa: E402
from itrex_chat.jobs.passage import Passage  # noqa: E402
from itrex_chat.neuralchat.chatbot import load_chatbot  # noqa: E402
from itrex_chat.quality.scoring import predictions  # noqa: E402
from itrex_chat.settings import recipe as recipes  # noqa: E402
from itrex_chat.settings.generation import GenerationConfig  # noqa: E402

QUESTION, TEXT, TOKENS, SAID = "What is the capital of France?", "The capital of France is", 24, 12
QUIET = {  # nobody calls home
    "GRADIO_ANALYTICS_ENABLED": "False",
    "LITELLM_LOCAL_MODEL_COST_MAP": "True",
    "LANGSMITH_TRACING": "false",
    "DO_NOT_TRACK": "1",
}


def environment() -> Environment:
    lines = (HERE / "requirements.txt").read_text("utf-8").splitlines()
    return Environment("clients", (("install", *(line for line in lines if not line.startswith("#"))),))


def expected() -> dict:
    """What `ask` says and `measure` gives, in this process."""
    questions = [json.loads(line) for line in (HERE / "capitals.jsonl").read_text("utf-8").splitlines()]
    chatbot = load_chatbot(recipes.load(recipes.EMBEDDED), "int4")

    def say(text: str, tokens: int) -> str:
        return chatbot.chat([{"role": "user", "content": text}], GenerationConfig(max_new_tokens=tokens)).text

    def go_on(text: str, tokens: int) -> str:
        tokenizer = chatbot.session.tokenizer
        *_pieces, response = generate(
            chatbot.decoder, tokenizer, tokenizer.encode(text), GenerationConfig(max_new_tokens=tokens)
        )
        return response.text

    def likelihood(context: str, continuation: str) -> float:
        """As lm-evaluation-harness cuts texts: the tokens of the whole behind as many as the context alone has."""
        first, ids = (chatbot.session.tokenizer.encode(text) for text in (context, context + continuation))
        passage = Passage("clients", "choice", tuple(ids), len(first))
        return sum(
            logprobs.gather(1, targets[:, None]).sum().item()
            for _start, logprobs, targets in predictions(chatbot.decoder, passage)
        )

    try:
        return {
            "question": QUESTION,
            "answer": say(QUESTION, TOKENS),
            "tokens": TOKENS,
            "text": TEXT,
            "continuation": go_on(TEXT, SAID),
            "continued": SAID,
            "said": {each["question"]: say(each["question"], SAID) for each in questions},
            "likelihoods": [
                (each["question"], f" {choice}", likelihood(each["question"], f" {choice}"))
                for each in questions
                for choice in each["choices"]
            ],
        }
    finally:
        chatbot.close()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("files", nargs="*", type=Path, help="which of the checks; default: all")
    parser.add_argument("--python", type=Path, help="an interpreter that has the clients")
    given = parser.parse_args()
    try:
        python = given.python or environment().python()
    except Unavailable as error:
        print(error, file=sys.stderr)
        return 1
    files = given.files or sorted([*HERE.glob("*_client.py"), *HERE.glob("*_page.py")])
    with tempfile.TemporaryDirectory() as folder:
        template = (HERE.parent / "tools.jinja").read_text("utf-8")
        tools = with_template(embedded(cache_home()), template, Path(folder) / "knows-tools.gguf")
        known = Path(folder) / "expected.json"
        known.write_text(json.dumps(expected()), "utf-8")
        with serving(cache_home(), "--model", recipes.EMBEDDED, str(tools), "--runs", f"{folder}/runs") as served:
            told = {"CLIENTS_BASE": f"http://127.0.0.1:{served.port}/v1", "CLIENTS_EXPECTED": str(known)}
            return subprocess.run(
                [python, "-m", "pytest", "--noconftest", "-p", "no:cacheprovider", "-rP", *files],
                env=os.environ | told | QUIET | {"PYTHONPATH": str(HERE)},
            ).returncode


if __name__ == "__main__":
    sys.exit(main())
