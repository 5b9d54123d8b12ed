"""Decode in turn: this program's variants and llama.cpp's files, each in a process of its own, several rounds."""

import json
import subprocess
import sys
from pathlib import Path

from measuring.figures import Spread, spread
from measuring.processes import Unavailable, start

from itrex_chat.settings.recipe import Recipe
from trained.llama_tools import Tools

WARM_UP = 8  # tokens of the prompt


def measure(
    ours: dict[str, Recipe], theirs: dict[str, Path], tools: Tools, rounds: int, tokens: int
) -> dict[str, Spread]:
    """Tokens per second by name: medians over rounds, each begun by another contestant."""
    contestants: list[tuple[str, Recipe | Path]] = [*ours.items(), *theirs.items()]
    rates: dict[str, list[float]] = {name: [] for name, _what in contestants}
    for number in range(rounds):
        turn = number % max(1, len(contestants))
        for name, what in contestants[turn:] + contestants[:turn]:
            rate = tools.decode_rate(what, tokens) if isinstance(what, Path) else _ours(what, tokens, tools.threads)
            rates[name].append(rate)
    return {name: found for name, values in rates.items() if (found := spread(values))}


def _ours(recipe: Recipe, tokens: int, threads: int) -> float:
    prompt = list(range(3, 3 + WARM_UP))
    job = {
        "model": "",
        "threads": threads,
        "context": WARM_UP + tokens,
        "options": {"variant": "int4", "recipe": recipe.as_dict()},
        "warm_up": prompt,
        "samples": [{"what": "chat", "ids": prompt, "count": tokens + 1}],
        "batches": [],
    }
    process = start(
        [sys.executable, "-m", "peers.this_program"],
        {"OMP_NUM_THREADS": str(threads)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    try:
        output, _none = process.communicate(json.dumps(job))
    finally:
        process.kill()
        process.wait()
    lines = [json.loads(line) for line in output.splitlines()]
    if failed := next((line["reason"] for line in lines if line["kind"] == "failed"), None):
        raise Unavailable(failed)
    return 1 / next(line["tpot"] for line in lines if line["kind"] == "answer")
