"""From raw lines to figures: medians with quartiles, and ratios within rounds."""

from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass

import numpy as np

from measuring.rounds import Results


@dataclass(frozen=True)
class Spread:
    """The median of `count` values and their quartiles."""

    median: float
    p25: float
    p75: float
    count: int

    def __format__(self, form: str) -> str:
        if self.count == 1:
            return format(self.median, form)
        return f"{self.median:{form}} ({self.p25:{form}}–{self.p75:{form}})"


def spread(values: Iterable[float | None]) -> Spread | None:
    known = [value for value in values if value is not None]
    return _spread(known) if known else None


def _spread(values: list[float]) -> Spread:
    p25, median, p75 = np.percentile(values, (25, 50, 75)).tolist()
    return Spread(median, p25, p75, len(values))


@dataclass(frozen=True)
class Figures:
    """What a contestant did. Rates in tokens per second, times in seconds, memory in bytes.

    `weight_bytes` are those that one decoded token reads; `achieved` is their rate in bytes per second and `share` that
    rate as a part of the read bandwidth of the same run. `slower` is the base's decode rate divided by this one's, round
    by round. `equal_tokens` counts how many of the first greedy tokens are those of the FP32 variant.
    """

    name: str
    decode: Spread | None
    ttft: Spread | None
    prefill: dict[int, Spread | None]
    load: Spread | None
    load_peak: int
    peak: int
    weight_bytes: int | None
    achieved: float | None
    share: float | None
    slower: Spread | None
    slower_prefill: dict[int, Spread]
    equal_tokens: int | None
    about: dict
    after: dict[int, Spread | None]  # decode rate by the tokens of context before it
    batches: dict[int, Spread | None]  # tokens per second of all questions together, by the number of questions

    def as_dict(self) -> dict:
        return asdict(self)


def bandwidth(results: Results) -> Spread:
    return _spread(results.bandwidths)


def figures(results: Results, base: str, exact: str = "fp32") -> dict[str, Figures]:
    """The figures of each contestant that got to the end."""
    return {name: _figures(results, name, base, exact) for name, rounds in results.lines.items() if rounds}


def _figures(results: Results, name: str, base: str, exact: str) -> Figures:
    rounds = results.lines[name]
    about = next(_of(rounds[0], "about"))
    decode = spread(rate for lines in rounds for rate in _decode(lines))
    weights = results.entries[name].weight_bytes or about.get("weight_bytes")
    achieved = decode.median * weights if decode and weights else None
    limit = bandwidth(results).median * 1e9
    lengths = sorted({answer["prompt"] for answer in _answers(rounds[0], "prefill")})
    others = results.lines.get(base, [])
    return Figures(
        name=name,
        decode=decode,
        ttft=spread(answer["ttft"] for lines in rounds for answer in _answers(lines, "chat")),
        prefill={length: spread(rate for lines in rounds for rate in _prefill(lines, length)) for length in lengths},
        load=spread(line["seconds"] for lines in rounds for line in _of(lines, "load")),
        load_peak=max(line["peak"] for lines in rounds for line in _of(lines, "load")),
        peak=max(line["peak"] for lines in rounds for line in _of(lines, "memory")),
        weight_bytes=weights,
        achieved=achieved,
        share=achieved / limit if achieved else None,
        slower=spread(_ratio(_decode(ours), _decode(theirs)) for ours, theirs in zip(others, rounds)),
        slower_prefill={
            length: found
            for length in lengths
            if (
                found := spread(
                    _ratio(_prefill(ours, length), _prefill(theirs, length)) for ours, theirs in zip(others, rounds)
                )
            )
        },
        equal_tokens=_equal(rounds, results.lines.get(exact)),
        about=about,
        after={
            length: spread(
                1 / answer["tpot"]
                for lines in rounds
                for answer in _answers(lines, "context")
                if answer["prompt"] == length
            )
            for length in sorted({answer["prompt"] for answer in _answers(rounds[0], "context")})
        },
        batches={
            size: spread(
                line["tokens"] / line["seconds"]
                for lines in rounds
                for line in _of(lines, "batch")
                if line["size"] == size
            )
            for size in sorted({line["size"] for line in _of(rounds[0], "batch")})
        },
    )


def _of(lines: list[dict], kind: str) -> Iterator[dict]:
    return (line for line in lines if line["kind"] == kind)


def _answers(lines: list[dict], what: str) -> list[dict]:
    return [line for line in _of(lines, "answer") if line["what"] == what]


def _decode(lines: list[dict]) -> list[float]:
    return [1 / answer["tpot"] for answer in _answers(lines, "chat")]


def _prefill(lines: list[dict], length: int) -> list[float]:
    return [length / answer["ttft"] for answer in _answers(lines, "prefill") if answer["prompt"] == length]


def _ratio(ours: list[float], theirs: list[float]) -> float | None:
    return float(np.median(ours) / np.median(theirs)) if ours and theirs else None


def _equal(rounds: list[list[dict]], exact: list[list[dict]] | None) -> int | None:
    """The first tokens in common with the exact answer."""
    answers, expected = _answers(rounds[0], "chat"), _answers(exact[0], "chat") if exact else []
    if not answers or not expected:
        return None
    ours, theirs = answers[0]["token_ids"], expected[0]["token_ids"]
    return next((i for i, (a, b) in enumerate(zip(ours, theirs)) if a != b), min(len(ours), len(theirs)))
