"""Downloads from a stand-in of both hubs with random faults, each to its end; every content compared, every byte counted.

    python benchmarks/download_faults.py [--downloads 300] [--first 1] [--seed 1] [--scale 0.02] [--at-once 4]

Faults are outages of 1 to 90 s, connections cut after 1 B to 64 MB, slow lines, 429 and 503 with and without Retry-After,
overload dressed as 404, kills, a disk that becomes full, and files that change at the hub or arrive damaged. Times, of the
faults and of the program's patience, are multiplied by --scale. A download may end whole, or with a sentence where the fault
is one that it cannot mend; then the next try, without that fault, must end whole. Exits non-zero where one does not, or where
more comes twice than a piece for each connection that a kill or a full disk ended. A download's faults follow from the seed
and its number, so that one alone can be tried again: --first 17 --downloads 1. Downloads that go on at once have a stand-in each.
"""

import argparse
import json
import os
import random
import statistics
import struct
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from standin_hub import FAILED, OVERLOADED, REPOSITORY, Refusal, StandinHub, StandinServer  # noqa: E402

HUBS = ("modelscope", "huggingface")
PIECE, CONNECTIONS = 1 << 20, 8
# The program in a process that can be killed. What it writes is counted in a file, which a kill leaves.
CHILD = """
import json, mmap, struct, sys
from pathlib import Path
from itrex_chat.foundation.errors import ItrexChatError
from itrex_chat.settings.source_spec import SourceSpec
from itrex_chat.sources import hubs
from itrex_chat.sources.pace import Pace
from itrex_chat.sources.partial import Partial
given = json.loads(sys.argv[1])
file = open(given["counter"], "r+b")
counter = mmap.mmap(file.fileno(), 8)
write = Partial.write
def counted(partial, at, data):
    (count,) = struct.unpack("Q", counter[:])
    if given["full_after"] is not None and count - given["before"] > given["full_after"]:
        raise OSError(28, "No space left on device")
    counter[:] = struct.pack("Q", count + len(data))
    write(partial, at, data)
Partial.write = counted
hubs.PACE = Pace(**given["pace"])
try:
    folder, origin = hubs.download(SourceSpec(hub=given["hub"], **{given["hub"]: given["repository"]}), Path(given["home"]), given["refresh"])
    print(folder)
except ItrexChatError as error:
    sys.exit(f"SENTENCE {error}")
"""


class Wrong(Exception):
    """A download ended as none may."""


class Trial:
    """One download with its faults."""

    def __init__(self, server: StandinServer, model: dict[str, bytes], chance: random.Random, scale: float):
        self.chance, self.scale, self.name = chance, scale, chance.choice(HUBS)
        self.hub = server.hub = StandinHub(dict(model))
        self.endpoint, self.model, self.versions = server.endpoint, model, [model]
        self.faults = chance.sample(
            [
                "outage",
                "outage",
                "cuts",
                "cuts",
                "slow",
                "busy",
                "busy at first",
                "overload",
                "kill",
                "kill",
                "full",
                "changed",
                "damaged",
            ],
            chance.choice((1, 2, 2, 3)),
        )
        self.sentences: list[str] = []
        self.losses = 0  # processes that were ended with what they had not noted

    def run(self, folder: Path) -> tuple[int, float]:
        """Bytes that came twice, and seconds."""
        began, home, counter = time.monotonic(), folder / "cache", folder / "counter"
        counter.write_bytes(bytes(8))
        self._prepare()
        kills = self.faults.count("kill")
        full = self.chance.randrange(1 << 20, 40 << 20) if "full" in self.faults else None
        refresh, wasted = False, 0
        for _try in range(12):
            before = _count(counter)
            process = self._start(home, counter, before, full, refresh)
            enough = before + self.chance.randrange(1, 30 << 20) if kills else 1 << 60
            deadline = time.monotonic() + 180 + 600 * self.scale
            while process.poll() is None and _count(counter) < enough:
                time.sleep(0.01)
                if time.monotonic() > deadline:
                    process.kill()
                    raise Wrong("does not end")
            if process.poll() is None:
                process.kill()
                process.communicate()
                kills, self.losses = kills - 1, self.losses + 1
                continue
            out, error = process.communicate()
            if process.returncode == 0:
                found = {path.name: path.read_bytes() for path in Path(out.strip()).iterdir()}
                if found not in self.versions:
                    raise Wrong("gave another content")
                return _count(counter) - sum(map(len, self.model.values())) - wasted, time.monotonic() - began
            sentence = error.strip().splitlines()[-1]
            if not sentence.startswith("SENTENCE ") or "Traceback" in error:
                raise Wrong(f"ended with no sentence: {error[-800:]}")
            self.sentences.append(sentence.removeprefix("SENTENCE "))
            if full is not None and "no space left" in sentence:
                full, self.losses = None, self.losses + 1
            if "arrived damaged" in sentence:  # what came of it is worth nothing
                wasted += sum(len(self.model[name]) for name in self.model if f"{name} arrived" in sentence)
                self.hub.damaged.clear()
                refresh = True
        raise Wrong(f"did not end whole: {self.sentences}")

    def _start(self, home: Path, counter: Path, before: int, full: int | None, refresh: bool) -> subprocess.Popen:
        scale = self.scale
        pace = {
            "patience": max(300 * scale, 6),
            "patience_for_listing": max(30 * scale, 5),
            "silence": max(20 * scale, 3),
            "first_pause": 0.5 * scale,
            "longest_pause": 20 * scale,
        }
        given = {
            "counter": str(counter),
            "before": before,
            "full_after": full,
            "hub": self.name,
            "repository": REPOSITORY,
        }
        given |= {"home": str(home), "pace": pace, "refresh": refresh}
        environment = {name: value for name, value in os.environ.items() if not name.lower().endswith("_proxy")}
        environment |= {"MODELSCOPE_ENDPOINT": self.endpoint, "HF_ENDPOINT": self.endpoint, "PYTHONPATH": str(ROOT)}
        environment |= {"HOME": str(home.parent), "ITREX_CHAT_LANG": "en"}
        return subprocess.Popen(
            [sys.executable, "-c", CHILD, json.dumps(given)],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def _prepare(self) -> None:
        hub, chance, scale = self.hub, self.chance, self.scale
        weathers: list[Callable[[], object]] = []
        for fault in self.faults:
            if fault == "outage":
                at, seconds = chance.randrange(1, 13), chance.uniform(1, 90) * scale
                weathers.append(_once(at, partial(_go_away, hub, seconds)))
            elif fault == "cuts":
                cuts = [int(2 ** chance.uniform(0, 26)) for _cut in range(chance.randrange(1, 40))]
                weathers.append(partial(next, iter(cuts), None))
            elif fault == "slow":
                hub.rate = 2 ** chance.uniform(20, 23)
            elif fault in ("busy", "busy at first"):
                wait = {"Retry-After": str(round(chance.uniform(0, 30 * scale), 2))} if chance.random() < 0.5 else {}
                refusals = [
                    Refusal(chance.choice((429, 500, 502, 503)), wait) for _number in range(chance.randrange(1, 6))
                ]
                if fault == "busy":
                    hub.file_refusals += refusals
                else:
                    hub.refusals += refusals[:3]
            elif fault == "overload" and self.name == "modelscope":
                hub.file_refusals += [OVERLOADED, FAILED]
                hub.refusals += [OVERLOADED]
            elif fault == "changed":
                weathers.append(_once(chance.randrange(2, 12), self._change))
            elif fault == "damaged":
                hub.damaged.add(chance.choice(sorted(self.model)))

        def weather() -> object:
            return next((found for each in weathers if (found := each()) is not None), None)

        hub.weather = weather

    def _change(self) -> None:
        """The file is another one from now on, at the same commit: what a branch without commits looks like."""
        name = max(self.model)
        self.hub.head.files[name] = self.model[name][::-1]
        self.hub.push(dict(self.hub.head.files))
        self.model = dict(self.hub.head.files)
        self.versions.append(self.model)


def _go_away(hub: StandinHub, seconds: float) -> None:
    hub.away_until = time.monotonic() + seconds


def _once(at: int, do: Callable[[], object]) -> Callable[[], object]:
    """Something that happens at the request of this number."""
    left = [at]

    def count() -> None:
        left[0] -= 1
        if left[0] == 0:
            do()

    return count


def _count(counter: Path) -> int:
    return struct.unpack("Q", counter.read_bytes())[0]


def tried(number: int, model: dict[str, bytes], seed: int, scale: float) -> tuple[str, int, bool]:
    """A line on a download, how many bytes of it came twice, and whether it ended as it should."""
    if not hasattr(STAND_INS, "server"):
        STAND_INS.server = StandinServer()
    trial = Trial(STAND_INS.server, model, random.Random(f"{seed} {number - 1}"), scale)
    line = f"{number:4} {trial.name:11} {'+'.join(trial.faults):30}"
    try:
        with tempfile.TemporaryDirectory() as folder:
            again, seconds = trial.run(Path(folder))
    except Wrong as wrong:
        return f"{line} WRONG: it {wrong}", 0, False
    finally:
        trial.hub.release()
    # Of a file that changed nothing can be kept.
    good = again <= PIECE * CONNECTIONS * trial.losses or "changed" in trial.faults
    line += f" {seconds:6.1f} s  {again / 1e6:7.2f} MB twice{'' if good else '  TOO MUCH'}"
    return f"{line}  {' | '.join(sentence[:70] for sentence in trial.sentences)}".rstrip(), again, good


STAND_INS = threading.local()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--downloads", type=int, default=300)
    parser.add_argument("--first", type=int, default=1, help="the number of the first")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--scale", type=float, default=0.02)
    parser.add_argument("--at-once", type=int, default=1)
    chosen = parser.parse_args()
    model = {
        "config.json": b"{}",
        "tokenizer.model": random.Random(0).randbytes(1_000_000),
        "model-00001-of-00002.safetensors": random.Random(1).randbytes(12_000_000),
        "model-00002-of-00002.safetensors": random.Random(2).randbytes(34_000_000),
    }
    numbers, found = range(chosen.first, chosen.first + chosen.downloads), []
    with ThreadPoolExecutor(chosen.at_once) as several:
        for line, again, good in several.map(lambda number: tried(number, model, chosen.seed, chosen.scale), numbers):
            print(line, flush=True)
            found.append((again, good))
    twice, whole = [again for again, _good in found], sum(good for _again, good in found)
    print(
        f"{whole} of {chosen.downloads} downloads ended as they should; twice came {statistics.median(twice) / 1e6:.2f} MB in "
        f"the median, {max(twice) / 1e6:.2f} MB at most"
    )
    return 0 if whole == chosen.downloads else 1


if __name__ == "__main__":
    sys.exit(main())
