"""Two checkouts of this program against each other, in turn: what a change cost or gave.

    python benchmarks/two_checkouts.py /path/to/before /path/to/after --model qwen2.5-coder-0.5b-instruct-q4_k_m.gguf

Each checkout has a `.venv`. Loading, prefill and decode are measured through `build_chatbot`, in a process of its own
for each round; the start of a verb is its `--help`. Printed are medians, and the ratio of the second to the first.
Nothing else should run on the machine meanwhile.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from statistics import median

from itrex_chat.__main__ import VERBS

PROMPT_TOKENS, ANSWER_TOKENS = 500, 96  # about; the prompt is the same text for both
VARIANTS = ("fp32", "int4")

# Run by each checkout's own interpreter, with the names that every version has.
CHILD = """
import json, sys, time
from itrex_chat import GenerationConfig, MixedPrecisionConfig, PipelineConfig, RtnConfig, build_chatbot
model, variant, words, count = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
chosen = MixedPrecisionConfig("float32") if variant == "fp32" else RtnConfig(
    compute_dtype="int8", weight_dtype="int4_fullrange")
began = time.perf_counter()
chatbot = build_chatbot(PipelineConfig(model, chosen))
load = time.perf_counter() - began
plain = {"draft": "none"} if hasattr(GenerationConfig(), "draft") else {}
config = GenerationConfig(max_new_tokens=count, **plain)
prompt = [{"role": "user", "content": "one two three four five six seven eight nine ten " * (words // 10)}]
short = [{"role": "user", "content": "Count from 1 to 200, with commas."}]
chatbot.chat(short, GenerationConfig(max_new_tokens=8, **plain))
long, answer = (chatbot.chat(messages, config) for messages in (prompt, short))
print(json.dumps({"load": load, "prefill": long.prompt_tokens / long.ttft, "decode": 1 / answer.tpot,
                  "tokens": [long.token_ids, answer.token_ids]}))
"""


def measured(checkout: Path, model: str, variant: str) -> dict:
    """One round of a variant in one checkout: seconds to load, tokens per second of prefill and decode."""
    command: list[object] = [
        checkout / ".venv" / "bin" / "python",
        "-c",
        CHILD,
        model,
        variant,
        PROMPT_TOKENS,
        ANSWER_TOKENS,
    ]
    run = subprocess.run([str(part) for part in command], cwd=checkout, capture_output=True)
    if run.returncode:
        raise SystemExit(f"{checkout}: {run.stderr.decode(errors='replace')[-600:]}")
    return json.loads(run.stdout.splitlines()[-1])


def started(checkout: Path, verb: str) -> float:
    """Seconds of a verb's `--help`."""
    command = [str(checkout / ".venv" / "bin" / "python"), "-m", f"itrex_chat.{verb}", "--help"]
    began = time.perf_counter()
    subprocess.run(command, cwd=checkout, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=True)
    return time.perf_counter() - began


def row(name: str, first: list[float], second: list[float], unit: str) -> str:
    a, b = median(first), median(second)
    return f"| {name} | {a:.3g} {unit} | {b:.3g} {unit} | {b / a:.3f} × |"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else "")
    parser.add_argument("before", type=Path)
    parser.add_argument("after", type=Path)
    parser.add_argument("--model", required=True)
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    pair = [folder.resolve() for folder in (arguments.before, arguments.after)]
    model = str(Path(arguments.model).resolve()) if os.path.exists(arguments.model) else arguments.model
    print(f"| | {pair[0]} | {pair[1]} | ratio |\n|---|--:|--:|--:|")
    for variant in VARIANTS:
        for checkout in pair:
            measured(checkout, model, variant)  # quantized, and in the page cache
        rounds = [[measured(checkout, model, variant) for checkout in pair] for _round in range(arguments.rounds)]
        if any(one["tokens"] != rounds[0][0]["tokens"] for both in rounds for one in both):
            print(f"{variant}: the answers differ", file=sys.stderr)
        for figure, unit in (("load", "s"), ("prefill", "tok/s"), ("decode", "tok/s")):
            values = [[both[side][figure] for both in rounds] for side in range(2)]
            print(row(f"{variant} {figure}", values[0], values[1], unit), flush=True)
    for verb in VERBS:
        times = [[started(checkout, verb) for checkout in pair] for _round in range(arguments.rounds)]
        print(row(f"{verb} --help", [both[0] for both in times], [both[1] for both in times], "s"), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
