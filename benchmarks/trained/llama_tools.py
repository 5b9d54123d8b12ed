"""llama.cpp's own programs: what it quantizes with, and what it measures its formats with."""

import json
import os
import re
import struct
import subprocess
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from measuring.processes import Unavailable

PROGRAMS = ("llama-quantize", "llama-imatrix", "llama-perplexity", "llama-bench")
ATTEMPTS = 40  # it prints from a thread of its own, and ends without waiting for it: the last lines may be missing
WINDOW = 512  # tokens that are read together; those of the second half are scored


@dataclass(frozen=True)
class Divergence:
    """What llama-perplexity says of a file beside the base: the mean divergence in nats and the share of equal likeliest
    tokens, each with its standard error (which counts tokens as independent)."""

    mean: float
    error: float
    same_top: float
    same_top_error: float


@dataclass(frozen=True)
class Tools:
    """The programs in `folder`, and how many threads they may use."""

    folder: Path
    threads: int

    def __post_init__(self) -> None:
        if missing := [name for name in PROGRAMS if not (self.folder / name).is_file()]:
            raise Unavailable(f"{self.folder} has no {missing[0]}: name the folder of llama.cpp's programs")

    def quantize(self, source: Path, target: Path, kind: str, importance: Path | None = None) -> None:
        """A file in another format: "Q4_0", "Q4_K_M", "F32", … Raises Unavailable, as all that follow."""
        weighted = ["--imatrix", importance] if importance else []
        self._run("llama-quantize", "--allow-requantize", *weighted, source, target, kind, self.threads)

    def importance(self, model: Path, text: Path, target: Path, windows: int) -> None:
        """The importance matrix: mean squares of the activations that each matrix is multiplied with on a text."""
        self._run("llama-imatrix", "-m", model, "-o", target, "--no-ppl", *self._reading(text), "--chunks", windows)

    def base(self, model: Path, text: Path, target: Path, windows: int) -> None:
        """Keep a model's predictions on a text."""
        wanted = ["--kl-divergence-base", target, "--chunks", windows]
        self._run("llama-perplexity", "-m", model, *self._reading(text), *wanted)

    def divergence(self, model: Path, base: Path) -> Divergence:
        """How far a model's predictions are from those that were kept."""
        wanted = ["--kl-divergence", "--kl-divergence-base", base, "-c", WINDOW, "-t", self.threads]
        for _attempt in range(ATTEMPTS):
            said = self._run("llama-perplexity", "-m", model, *wanted)
            mean = re.search(r"Mean\s+KLD:\s*(\S+) ±\s*(\S+)", said)
            same = re.search(r"Same top p:\s*(\S+) ±\s*(\S+) %", said)
            if mean and same:
                return Divergence(float(mean[1]), float(mean[2]), float(same[1]) / 100, float(same[2]) / 100)
        raise Unavailable(f"llama-perplexity did not say how far {model.name} is, asked {ATTEMPTS} times")

    def decode_rate(self, model: Path, tokens: int) -> float:
        """Tokens per second, by llama-bench."""
        wanted = ["-p", 0, "-n", tokens, "-r", 1, "-t", self.threads, "-o", "json"]
        said = self._run("llama-bench", "-m", model, *wanted)
        return float(json.loads(said[said.index("[") :])[0]["avg_ts"])

    def _reading(self, text: Path) -> list:
        # Without --no-escape a backslash and an n in the text are read as a line's end.
        return ["-f", text, "--no-escape", "-c", WINDOW, "-t", self.threads]

    def _run(self, program: str, *arguments: object) -> str:
        run = subprocess.run(
            [self.folder / program, *map(str, arguments)],
            capture_output=True,
            stdin=subprocess.DEVNULL,
            encoding="utf-8",
            errors="replace",
            env=os.environ | {"LD_LIBRARY_PATH": str(self.folder)},
        )
        if run.returncode:
            said = (run.stdout + run.stderr).splitlines()
            last = next((line for line in reversed(said) if line.strip()), "without a word")
            raise Unavailable(f"{program} ended with code {run.returncode}: {last.strip()[:300]}")
        return run.stdout


def windows_of(base: Path) -> list[list[int]]:
    """The token ids of each window of kept predictions, as llama.cpp found them in the text."""
    with base.open("rb") as file:
        magic, length, _vocabulary, count = struct.unpack("<8s3i", file.read(20))
        if magic != b"_logits_":
            raise Unavailable(f"{base} does not hold llama.cpp's predictions")
        ids = np.fromfile(file, np.int32, length * count)
    return ids.reshape(count, length).tolist()
