"""A dry run for many machines: the plan that `ask --executor ray` makes, and what doing it would take.

    python benchmarks/machines.py [--machines 1000] [--models 200] [--questions 1000] [--variants fp32,bf16,int8,int4]

The plan is made by the program itself. What the one who writes the record does for each answer is measured here; machines are
simulated with what is said of them: memory bandwidth, disk, network, and models of `--size` billion weights. Prints where the
machines' time goes, and what limits it.
"""

import argparse
import dataclasses
import heapq
import json
import sys
import tempfile
import time
import tracemalloc
from collections.abc import Iterator
from pathlib import Path

from itrex_chat.foundation import progress
from itrex_chat.foundation.units import lasting, readable
from itrex_chat.jobs import protocol
from itrex_chat.jobs.answer import Answer
from itrex_chat.jobs.event import Answered, Prepared
from itrex_chat.jobs.job import Ask
from itrex_chat.runs.display import SpreadDisplay
from itrex_chat.runs.questioning import Asked, Asking
from itrex_chat.runs.record import RunRecord
from itrex_chat.runs.spreading import chains
from itrex_chat.settings import recipe as recipes
from itrex_chat.settings.engine_options import EngineOptions
from itrex_chat.settings.questions import Question, QuestionSet

BITS = {"fp32": 16.0, "bf16": 16.0, "int8": 8.5, "int4": 4.6}  # that a token reads of each weight; FP32 is kept in 16
SAMPLES = 200  # answers that the one who writes the record is timed with


class Quiet(SpreadDisplay):
    def model(self, label: str, question_set: str, count: int) -> None:
        """Nothing: there is nobody to show it to."""


def plan(arguments: argparse.Namespace, record: RunRecord, asked: QuestionSet) -> list[list[Ask]]:
    """The chains of jobs of all models."""
    asking, base = Asking(record, Quiet(), asked, EngineOptions(), 1), recipes.load(recipes.EMBEDDED)
    variants = arguments.variants.split(",")
    found: list[list[Ask]] = []
    for number in range(arguments.models):
        model = Asked(f"model-{number}", dataclasses.replace(base, name=f"model-{number}"), variants)
        prepared = Prepared(job="", needs=dict.fromkeys(variants, 1), languages=("en",), problems={}, artifacts={})
        for chain in chains(asking, model, prepared, arguments.models, arguments.machines):
            found.append([part.job for part in chain])
    record.save()
    return found


def simulated(arguments: argparse.Namespace, jobs: list[list[Ask]]) -> dict[str, float]:
    """Seconds: the whole, and of all machines together what each kind of work takes. The one place that models come from
    serves one machine after the other, at `--source` GB/s in all."""
    size, spent = arguments.size * 1e9, dict.fromkeys(("fetching", "quantizing", "loading", "answering"), 0.0)
    free, served, seen = [0.0] * arguments.machines, 0.0, set[str]()
    for chain in jobs:
        start = heapq.heappop(free)
        served = max(served, start) + 2 * size / 1e9 / arguments.source
        fetched = max(served, start + 2 * size / 1e9 / arguments.network)
        now, label = fetched, chain[0].label
        if label not in seen:  # the others get the artifact from this machine
            seen.add(label)
            now += arguments.quantizing * arguments.size
            spent["quantizing"] += now - fetched
        spent["fetching"] += fetched - start
        for job in chain:
            weights = BITS[job.variant] / 8 * size
            loading = arguments.starting + weights / 1e9 / arguments.disk
            answering = len(job.questions) * arguments.tokens * weights / (0.9e9 * arguments.bandwidth)
            spent["loading"] += loading
            spent["answering"] += answering
            now += loading + answering
        heapq.heappush(free, now)
    whole = max(free)
    return spent | {"idle": whole * arguments.machines - sum(spent.values()), "whole": whole}


def writing(record: RunRecord, tokens: int) -> float:
    """Seconds of a core that reading an answer's event and keeping the answer take; it is synced ten times a second."""
    text = "a word or two " * (tokens // 4)
    answer = Answer(
        "q", "model-0", "int4", text, [1000] * tokens, [1000] * 60, "stop", 60, tokens, 0.1, 0.1, 10, 9, 1.0
    )
    line = protocol.as_line(Answered(job="x", answer=answer))
    began = time.process_time()
    for _number in range(SAMPLES):
        event = protocol.event_from(line)
        assert isinstance(event, Answered)
        record.append(event.answer)
    return (time.process_time() - began) / SAMPLES


def report(arguments: argparse.Namespace) -> Iterator[str]:
    asked = QuestionSet(
        "many", "en", tuple(Question(f"q{n}", f"Question {n}: what is it?") for n in range(arguments.questions))
    )
    recipe = recipes.load(recipes.EMBEDDED).as_dict()
    spec = {
        "models": [{"label": f"model-{number}", "recipe": recipe} for number in range(arguments.models)],
        "variants": arguments.variants.split(","),
        "questions": dataclasses.asdict(asked),
    }
    with tempfile.TemporaryDirectory() as folder:
        record = RunRecord.start(Path(folder), json.loads(json.dumps(spec)))
        record.sparing = True
        began = time.perf_counter()
        jobs = plan(arguments, record, asked)
        seconds = time.perf_counter() - began
        tracemalloc.start()
        again = plan(arguments, record, asked)
        size, _peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert len(again) == len(jobs)
        described = (record.folder / "run.json").stat().st_size
        each = writing(record, arguments.tokens)
        record.close()
    answers = sum(len(job.questions) for chain in jobs for job in chain)
    yield (
        f"{answers:,} answers in {sum(map(len, jobs)):,} jobs of {len(jobs):,} chains, planned in {seconds:.1f} s; the plan takes "
        f"{readable(size)}, run.json {readable(described)}"
    )
    began, spent = time.perf_counter(), simulated(arguments, jobs)
    whole = spent.pop("whole")
    yield f"{arguments.machines:,} machines take {lasting(whole)} (simulated in {time.perf_counter() - began:.1f} s). Of their time:"
    total = whole * arguments.machines
    yield from (f"  {name:<10} {100 * value / total:5.1f} %" for name, value in spent.items())
    yield f"Keeping an answer takes {1000 * each:.1f} ms of a core, all of them {lasting(answers * each)}, beside the machines' work."
    yield f"What limits it: {_limit(arguments, spent, whole, answers * each)}."


def _limit(arguments: argparse.Namespace, spent: dict[str, float], whole: float, writes: float) -> str:
    if writes > 0.8 * whole:
        return "the one process that keeps answers; shards, each with a record of its own, do not have it"
    most = max(spent, key=lambda name: spent[name])
    return {
        "fetching": f"the {arguments.source} GB/s at which models come from one place; a package or hub for each rack helps",
        "quantizing": "quantizing each model once, while the other machines have nothing of it",
        "loading": "loading, once for each part and variant; more questions make it less",
        "answering": "memory bandwidth while answers are decoded, which is what machines are for",
        "idle": "too few parts for so many machines; more questions give more",
    }[most]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else "")
    parser.add_argument("--machines", type=int, default=1000)
    parser.add_argument("--models", type=int, default=200)
    parser.add_argument("--questions", type=int, default=1000)
    parser.add_argument("--variants", default="fp32,bf16,int8,int4")
    parser.add_argument("--tokens", type=int, default=128, help="of an answer")
    parser.add_argument("--size", type=float, default=6.2, help="billions of weights of a model")
    parser.add_argument("--bandwidth", type=float, default=200.0, help="GB/s of a machine's memory")
    parser.add_argument("--disk", type=float, default=2.6, help="GB/s of a machine's disk")
    parser.add_argument("--network", type=float, default=1.2, help="GB/s of a machine's network")
    parser.add_argument("--source", type=float, default=10.0, help="GB/s of the place that models come from, in all")
    parser.add_argument("--quantizing", type=float, default=10.0, help="seconds for a billion weights")
    parser.add_argument("--starting", type=float, default=6.0, help="seconds of an actor and its worker")
    progress.silence()
    for line in report(parser.parse_args()):
        print(line)
    return 0


if __name__ == "__main__":
    sys.exit(main())
