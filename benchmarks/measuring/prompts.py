"""The prompts that all contestants get, as token ids: a question in the model's chat format, and a long text.

    python -m measuring.prompts MODEL

prints them as JSON; a process of its own, because the tokenizer needs the checkpoint's family and that needs torch.
"""

import json
import random
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from measuring.processes import Unavailable, start

QUESTION = "Write a Python function that checks whether a number is prime. Answer with code only."
WORDS = [
    "def",
    "return",
    "value",
    "list",
    "index",
    "function",
    "loop",
    "class",
    "tree",
    "node",
    "graph",
    "edge",
    "sort",
    "merge",
]
TEXT = Path(__file__).resolve().parents[2] / "README.md"


@dataclass(frozen=True)
class Prompts:
    chat: list[int]
    long: list[int]

    def text(self, tokens: int) -> list[int]:
        """So many tokens of text."""
        return (self.long * (tokens // len(self.long) + 1))[:tokens]


def filler(draw: random.Random, count: int, words: Sequence[str] = WORDS) -> str:
    """So many words that mean nothing."""
    return " ".join(draw.choice(words) for _word in range(count))


def prompts(model: str) -> Prompts:
    """For a recipe or a path. Raises Unavailable with the model's own error."""
    process = start(
        [sys.executable, "-m", "measuring.prompts", model], {}, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    output, errors = process.communicate()
    if process.returncode:
        raise Unavailable((errors.strip().splitlines() or ["no prompt"])[-1])
    return Prompts(**json.loads(output))


def _print(model: str) -> None:
    from itrex_chat import sources
    from itrex_chat.chat import load_tokenizer
    from itrex_chat.chat.messages import Message
    from itrex_chat.checkpoints import open_checkpoint
    from itrex_chat.settings import recipe as recipes

    recipe = recipes.load(model)
    source = sources.resolve(recipe)
    gguf = source.weights[0] if source.format == "gguf" else None
    tokenizer = load_tokenizer(source.folder, open_checkpoint(source).family, recipe.chat, gguf)
    print(
        json.dumps(
            {"chat": tokenizer.prompt([Message("user", QUESTION)]), "long": tokenizer.encode(TEXT.read_text("utf-8"))}
        )
    )


if __name__ == "__main__":
    _print(sys.argv[1])
