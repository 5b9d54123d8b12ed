"""A small Llama with 16-bit weights of its own, and how well INT4 and llama.cpp's formats keep it.

    nice python benchmarks/small_llama.py train FOLDER
    python benchmarks/small_llama.py compare FOLDER
    python benchmarks/small_llama.py speed FOLDER
    python benchmarks/small_llama.py table FOLDER

`train` takes about an hour of one core, reads texts that every machine with this checkout and Python has, and goes on where it
was interrupted. `compare` has llama.cpp quantize the model with and without an importance matrix, and measures its formats and
this program's with llama.cpp's measure and with this program's on the same tokens. `speed` measures decode in turn; nothing else should
run meanwhile. `table` prints what was found. llama.cpp's programs are those of --llama-cpp, or get an environment in the cache at the
first run, where they are compiled.
"""

import argparse
import json
import sys
from dataclasses import asdict
from pathlib import Path

import torch
from measuring import environments
from measuring.processes import Unavailable
from trained.contest import COMPARED, Contest, read
from trained.llama_tools import WINDOW, Tools
from trained.table import markdown
from trained.training import Plan, Shape, train

from itrex_chat.foundation import machine
from itrex_chat.foundation.errors import ItrexChatError
from itrex_chat.foundation.files import write_json
from itrex_chat.settings import recipe as recipes

SPEED = "speed.json"
ALGORITHMS = getattr(recipes, "ALGORITHMS", ("rtn",))  # of this version
CALIBRATED = getattr(recipes, "CALIBRATED", ())


def parser() -> argparse.ArgumentParser:
    built = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    verbs = built.add_subparsers(dest="verb", required=True)
    for name in ("train", "compare", "speed", "table"):
        verbs.add_parser(name).add_argument("folder", type=Path)
    add = verbs.choices["train"].add_argument
    add("--steps", type=int, default=Plan.steps)
    for name in ("compare", "speed"):
        add = verbs.choices[name].add_argument
        add(
            "--llama-cpp",
            type=Path,
            help="the folder of llama-quantize, llama-imatrix, llama-perplexity and llama-bench",
        )
        add(
            "--ours",
            nargs="*",
            metavar="NAME[: KEY VALUE …]",
            help="names with settings of the recipe; default: all algorithms",
        )
        add("--windows", type=int, default=24, help="of 512 tokens, of each text")
        add("--calibration", type=int, default=64, help="windows of the calibration's text, for both programs")
        add("--rounds", type=int, default=5)
        add("--tokens", type=int, default=128)
    return built


def main() -> int:
    arguments = parser().parse_args()
    folder: Path = arguments.folder.resolve()
    if arguments.verb == "train":
        torch.set_num_threads(1)
        print(train(folder, Shape(), Plan(arguments.steps)))
        return 0
    try:
        if arguments.verb == "compare":
            contest(folder, arguments).compare(ours(folder, arguments))
        elif arguments.verb == "speed":
            measured = contest(folder, arguments)
            found = measured.speeds(ours(folder, arguments), arguments.rounds, arguments.tokens)
            write_json(folder / SPEED, {name: asdict(rate) for name, rate in found.items()})
    except (Unavailable, ItrexChatError) as problem:
        print(problem, file=sys.stderr)
        return 1
    if not (compared := read(folder / COMPARED)):
        print(
            f"{folder} has nothing that was compared: python benchmarks/small_llama.py compare {folder}",
            file=sys.stderr,
        )
        return 1
    print(markdown(compared, read(folder / SPEED)))
    return 0


def contest(folder: Path, arguments: argparse.Namespace) -> Contest:
    programs = arguments.llama_cpp or environments.llama_cpp_programs()
    return Contest(folder, Tools(programs, machine.threads()), arguments.windows, arguments.calibration)


def ours(folder: Path, arguments: argparse.Namespace) -> dict[str, list[str]]:
    """This program's variants: settings by name. "INT4 search: quantization.algorithm search" is the name "INT4 search" and
    its settings. Without any, each algorithm with the text that llama.cpp's importance matrix is made from."""
    if arguments.ours:
        parts = [text.partition(":") for text in arguments.ours]
        return {name: settings.split() for name, _colon, settings in parts}
    found: dict[str, list[str]] = {}
    for algorithm in ALGORITHMS:
        settings = ["quantization.algorithm", algorithm] if algorithm != "rtn" else []
        if algorithm in CALIBRATED:
            settings += ["quantization.calibration", json.dumps([str(folder / "calibration.txt")])]
            settings += ["quantization.calibration_tokens", str(arguments.calibration * WINDOW)]
        found[f"INT4 {algorithm}"] = settings
    last = f"INT4 {ALGORITHMS[-1]}"
    return found | {f"{last}, INT4 head": [*found[last], "quantization.head", "int4"]}


if __name__ == "__main__":
    sys.exit(main())
