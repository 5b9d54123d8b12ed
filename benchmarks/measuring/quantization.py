"""Quantization beside the peers' converters: time and peak memory of a process that does nothing else."""

import os
import sys
import tempfile
from pathlib import Path

from itrex_chat.foundation.places import cache_home
from measuring import environments
from measuring.models import Model
from measuring.processes import Made, Unavailable, convert


def compare(model: Model, names: set[str]) -> dict[str, Made | str]:
    """What each of the named contestants' converters takes, by a title; a text is the reason why there is none.

    All read the same dense folder from the page cache, but llama.cpp, which reads GGUF.
    """
    found: dict[str, Made | str] = {}
    dense = model.dense()
    with tempfile.TemporaryDirectory(dir=cache_home() / "benchmarks") as folder:
        commands = {
            "int4": (
                "itrex_chat, from float16 safetensors",
                lambda: (
                    [sys.executable, "-m", "itrex_chat.quantize", "--model", str(dense)],
                    {"ITREX_CHAT_CACHE": folder},
                ),
            ),
            "openvino": (
                "optimum-cli export openvino, from float16 safetensors",
                lambda: (
                    [
                        str(environments.openvino().python()),
                        "-m",
                        "peers.openvino_genai",
                        "convert",
                        str(dense),
                        f"{folder}/openvino",
                    ],
                    {},
                ),
            ),
            "llama.cpp": (
                "llama.cpp, from GGUF",
                lambda: (
                    [
                        str(environments.llama_cpp().python()),
                        "-m",
                        "peers.llama_cpp",
                        "quantize",
                        str(model.gguf_source()),
                        f"{folder}/q4_0.gguf",
                    ],
                    {},
                ),
            ),
        }
        _warm(dense)
        for name, (title, command) in commands.items():
            if name in names:
                try:
                    found[title] = convert(*command())
                except Unavailable as problem:
                    found[title] = str(problem)
    return found


def _warm(folder: Path) -> None:
    """Read the files once, so that the first converter finds them in memory as the others do."""
    for file in folder.glob("*.safetensors"):
        with file.open("rb") as content:
            while content.read(1 << 26):
                os.sched_yield()
