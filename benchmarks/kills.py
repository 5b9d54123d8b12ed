"""Kill quantize and ask at random moments, then let each end well and compare with what an unkilled run gives.

    python benchmarks/kills.py [--model smollm2-135m] [--kills 20] [--seed 1]

Prints a line for each kill; exits non-zero if anything that was finished is lost or differs.
"""

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path


def run(home: Path, *arguments: str, kill_after: float | None = None) -> int | None:
    """Run a command with a cache of its own, killed after some seconds if told; its exit code, or None if killed."""
    process = subprocess.Popen(
        [sys.executable, "-m", *arguments],
        env=dict(os.environ, ITREX_CHAT_CACHE=str(home)),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        _out, error = process.communicate(timeout=kill_after)
    except subprocess.TimeoutExpired:
        process.kill()
        process.communicate()
        return None
    if process.returncode:
        sys.exit(f"{' '.join(arguments)} ended with {process.returncode}: {error[-500:]}")
    return process.returncode


def artifacts(home: Path) -> list[dict]:
    """The digests of the files of each finished artifact."""
    found = []
    for manifest in home.glob("artifacts/*/manifest.json"):
        if not manifest.parent.name.endswith(".partial"):
            files = json.loads(manifest.read_text("utf-8"))["files"]
            found.append({name: entry["sha256"] for name, entry in files.items() if name.endswith(".safetensors")})
    return found


def answers(out: Path) -> list[tuple]:
    lines = (out / "answers.jsonl").read_text("utf-8").splitlines()
    return [(line["variant"], line["id"], line["token_ids"]) for line in map(json.loads, lines)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    moments = random.Random(arguments.seed)
    with tempfile.TemporaryDirectory() as scratch:
        home = Path(scratch) / "reference"
        quantize = ("itrex_chat.quantize", "--model", arguments.model)
        run(home, *quantize)  # downloads what is needed
        started = time.perf_counter()
        subprocess.run(["rm", "-rf", str(home / "artifacts")], check=True)
        run(home, *quantize)
        longest, expected = time.perf_counter() - started, artifacts(home)

        killed = 0
        while killed < arguments.kills:
            moment = moments.uniform(0.2, longest)
            gone = run(home, *quantize, kill_after=moment) is None
            killed += gone
            print(f"quantize {'killed' if gone else 'ended'} after {moment:.1f} s", flush=True)
            if artifacts(home) not in ([], expected):
                sys.exit("a finished artifact differs")
            if not gone or killed % 4 == 0:
                run(home, *quantize)
                run(home, "itrex_chat.cache", "verify")
                if artifacts(home) != expected:
                    sys.exit("the artifact after the kills differs")
                subprocess.run(["rm", "-rf", str(home / "artifacts")], check=True)

        run(home, *quantize)
        ask = ("itrex_chat.ask", "--model", arguments.model, "--max-new-tokens", "24", "--out")
        started = time.perf_counter()
        run(home, *ask, str(Path(scratch) / "whole"))
        longest, whole = time.perf_counter() - started, answers(Path(scratch) / "whole")
        killed = number = 0
        while killed < arguments.kills:
            out = Path(scratch) / f"run{number}"
            moment = moments.uniform(0.2, longest)
            gone = run(home, *ask, str(out), kill_after=moment) is None
            killed += gone
            print(f"ask {'killed' if gone else 'ended'} after {moment:.1f} s", flush=True)
            if not gone or killed % 4 == 0:
                run(home, *ask, str(out))
                if answers(out) != whole:
                    sys.exit("the answers after the kills differ")
                number += 1
    print(f"{arguments.kills} kills of each: every artifact and answer is what an unkilled run gives")


if __name__ == "__main__":
    main()
