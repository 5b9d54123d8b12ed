"""Speed beside the peers: everybody with the same model, prompt and threads on this machine, in turn, in one run.

    python benchmarks/speed.py --model qwen2.5-coder-0.5b-instruct-q4_k_m.gguf --rounds 5

Peers get environments of their own in the cache at the first run (llama.cpp is compiled, ITREX takes 6 GB), and the model
in the format of each. A peer that cannot be had or fails is named with the reason, and the others go on. Nothing else
should run on the machine meanwhile. Prints the report and writes it to OUT as speed.md and speed.json.
"""

import argparse
import shlex
import signal
import sys
from datetime import UTC, datetime
from pathlib import Path

from measuring import quantization
from measuring.bandwidth import ReadBandwidth
from measuring.contestants import PEERS, VARIANTS
from measuring.dense import SHAPES
from measuring.models import Model
from measuring.processes import Unavailable
from measuring.prompts import prompts
from measuring.report import Chapter, markdown
from measuring.rounds import Plan, measure

from itrex_chat.foundation import machine
from itrex_chat.foundation.errors import ItrexChatError
from itrex_chat.foundation.files import write_json, write_text
from itrex_chat.foundation.places import cache_home
from itrex_chat.settings import recipe as recipes

AFTER_CONTEXT = 16  # tokens decoded behind a context, and for each question of a batch
LOW_BIT = ("int4", "ark", "llama.cpp", "openvino")  # whose decode is measured against the context's length


def chapter(model: Model, arguments: argparse.Namespace, bandwidth: ReadBandwidth) -> Chapter:
    """Everything that was asked for, with one model."""
    asked = prompts(str(model.dense()) if model.shape else model.given)
    ours = [VARIANTS[name] for name in arguments.variants]
    everybody = ours + [PEERS[name] for name in arguments.peers]

    def run(contestants, **plan):
        return measure(
            model,
            contestants,
            Plan(asked.text(max(arguments.prefill)), **plan),
            arguments.rounds,
            bandwidth.threads,
            bandwidth,
            arguments.out,
        )

    result = Chapter(
        run(
            everybody,
            samples=[
                ("chat", asked.chat, arguments.tokens),
                *(("prefill", asked.text(length), 1) for length in arguments.prefill),
            ],
        )
    )
    result.formats = model.made()
    if result.main.interrupted:
        return result
    able = [contestant for contestant in everybody if contestant.name not in result.main.failures]
    if arguments.contexts:
        result.contexts = run(
            [contestant for contestant in able if contestant.name in LOW_BIT],
            samples=[("context", asked.text(length), AFTER_CONTEXT) for length in arguments.contexts],
        )
    if arguments.batches:
        result.batches = run(
            [contestant for contestant in able if contestant in ours],
            samples=[],
            batches=[(size, asked.chat, AFTER_CONTEXT) for size in arguments.batches],
        )
    if arguments.quantization:
        result.quantization = quantization.compare(model, {contestant.name for contestant in able})
    return result


def parser() -> argparse.ArgumentParser:
    built = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = built.add_argument
    add("--model", nargs="*", metavar="MODEL", help=f"recipes, folders or .gguf files; default {recipes.EMBEDDED}")
    add("--shapes", nargs="*", choices=SHAPES, default=[], help="sizes of known models, with random weights")
    add("--variants", nargs="*", choices=VARIANTS, default=list(VARIANTS))
    add("--peers", nargs="*", choices=PEERS, default=list(PEERS))
    add("--rounds", type=int, default=5)
    add("--tokens", type=int, default=64, help="tokens of the answer whose decode is measured")
    add("--prefill", nargs="+", type=int, default=[128, 512], help="lengths of the prompts")
    add("--contexts", nargs="*", type=int, help="measure decode behind so many tokens, as 128 512 1024 2048 4096")
    add("--batches", nargs="*", type=int, help="measure so many questions together, as 1 2 4 8")
    add("--quantization", action="store_true", help="measure quantization beside the peers' converters")
    add("--out", type=Path, help="default: a new folder in the cache")
    return built


def _absolute(name: str) -> str:
    """A path that holds in other folders too; a recipe's name as it is."""
    return name if name in recipes.names() or not Path(name).exists() else str(Path(name).resolve())


def main() -> int:
    arguments, now = parser().parse_args(), datetime.now(UTC)
    arguments.out = arguments.out or cache_home() / "benchmarks" / "results" / f"{now:%Y%m%d-%H%M%S}"
    arguments.out.mkdir(parents=True, exist_ok=True)
    models = [Model(_absolute(name)) for name in arguments.model or ([] if arguments.shapes else [recipes.EMBEDDED])]
    models += [Model(name, shape=True) for name in arguments.shapes]
    bandwidth, chapters = ReadBandwidth(machine.threads()), []
    facts = machine.description() | {
        "date": f"{now:%Y-%m-%d %H:%M} UTC",
        "threads": bandwidth.threads,
        "rounds": arguments.rounds,
        "bandwidth": bandwidth.method,
        "command": shlex.join(["python", "benchmarks/speed.py", *sys.argv[1:]]),
    }
    for model in models:
        try:
            chapters.append(chapter(model, arguments, bandwidth))
        except (Unavailable, ItrexChatError) as problem:
            print(f"{model.given}: {problem}", file=sys.stderr)
            continue
        write_text(arguments.out / "speed.md", markdown(chapters, facts))
        write_json(arguments.out / "speed.json", {"facts": facts, "models": [part.as_dict() for part in chapters]})
        if chapters[-1].interrupted:
            break
    if chapters:
        print((arguments.out / "speed.md").read_text("utf-8"))
        print(f"Written to {arguments.out}", file=sys.stderr)
    return 130 if any(part.interrupted for part in chapters) else 0 if len(chapters) == len(models) else 1


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # ends the worker and reports, as Ctrl-C does
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
