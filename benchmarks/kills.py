"""Kill quantize and ask at random moments, then let each end well and compare with what an unkilled run gives; ask with weights
in memory and with such as are read from disk, and, where a user may mount one, on a disk that becomes full.

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

# FP32 with so little memory that all weights are read from disk for each pass.
STREAMED = ("--variants", "fp32", "--set", "fp32.memory", "0.1")


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


def kill_asking(
    home: Path, scratch: Path, moments: random.Random, model: str, kills: int, options: tuple[str, ...] = ()
) -> None:
    """Kill ask until it was killed so many times; every fourth time it may go on to its end."""
    ask = ("itrex_chat.ask", "--model", model, "--max-new-tokens", "24", *options, "--out")
    started = time.perf_counter()
    run(home, *ask, str(scratch / "whole"))
    longest, whole = time.perf_counter() - started, answers(scratch / "whole")
    killed = number = 0
    while killed < kills:
        out = scratch / f"run{number}"
        moment = moments.uniform(0.2, longest)
        gone = run(home, *ask, str(out), kill_after=moment) is None
        killed += gone
        print(f"ask {scratch.name} {'killed' if gone else 'ended'} after {moment:.1f} s", flush=True)
        if not gone or killed % 4 == 0:
            run(home, *ask, str(out))
            if sorted(answers(out)) != sorted(whole):
                sys.exit("the answers after the kills differ")
            number += 1


def fill_disk(home: Path, small: Path, model: str) -> None:
    """Keep a run on disks that become full at some time, until there is enough room; where a user may mount them."""
    small.mkdir()
    if os.geteuid() or subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8k", "tmpfs", str(small)]).returncode:
        print("a full disk was not tried: only root can mount a small one")
        return
    try:
        ask = ("itrex_chat.ask", "--model", model, "--max-new-tokens", "24", *STREAMED, "--out")
        full = 0
        for size in (16, 24, 32, 40, 48, 64, 96, 4096):  # in kB
            subprocess.run(["mount", "-o", f"remount,size={size}k", str(small)], check=True)
            tried = subprocess.run(
                [sys.executable, "-m", *ask, str(small / "run")],
                env=dict(os.environ, ITREX_CHAT_CACHE=str(home)),
                capture_output=True,
                text=True,
            )
            print(f"ask with {size} kB of disk ended with {tried.returncode}", flush=True)
            if "Traceback" in tried.stderr or (tried.returncode and "no space" not in tried.stderr):
                sys.exit(f"a full disk is no sentence: {tried.stderr[-500:]}")
            full += bool(tried.returncode)
        run(home, *ask, str(small.parent / "roomy"))
        if not full or sorted(answers(small / "run")) != sorted(answers(small.parent / "roomy")):
            sys.exit("the answers after a full disk differ")
    finally:
        subprocess.run(["umount", str(small)], check=True)


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
        in_files = Path(scratch) / "in_files"
        dense = ("-m", "measuring.dense", arguments.model, str(in_files))
        subprocess.run([sys.executable, *dense], cwd=Path(__file__).parent, check=True)
        kill_asking(home, Path(scratch) / "memory", moments, arguments.model, arguments.kills)
        kill_asking(home, Path(scratch) / "streamed", moments, str(in_files), arguments.kills, STREAMED)
        fill_disk(home, Path(scratch) / "small", str(in_files))
    print(f"{arguments.kills} kills of each: every artifact and answer is what an unkilled run gives")


if __name__ == "__main__":
    main()
