"""The report: Markdown for people, JSON with everything."""

from collections.abc import Callable
from dataclasses import dataclass, field

from measuring.contestants import BASE, PEERS, VARIANTS
from measuring.figures import Figures, Spread, bandwidth, figures
from measuring.processes import Made
from measuring.rounds import Results

TITLES = {name: contestant.title for name, contestant in (VARIANTS | PEERS).items()}


@dataclass
class Chapter:
    """All that was measured with one model."""

    main: Results
    contexts: Results | None = None
    batches: Results | None = None
    quantization: dict[str, Made | str] | None = None  # by title; a text says why there is none
    formats: dict[str, Made] = field(default_factory=dict)  # how the contestants' files were made

    @property
    def interrupted(self) -> bool:
        return any(part.interrupted for part in (self.main, self.contexts, self.batches) if part)

    def as_dict(self) -> dict:
        def part(results: Results | None) -> dict | None:
            if results is None:
                return None
            return {
                "bandwidth": bandwidth(results).__dict__ if results.bandwidths else None,
                "bandwidths": results.bandwidths,
                "disturbances": results.disturbances,
                "failures": results.failures,
                "figures": {name: found.as_dict() for name, found in figures(results, BASE).items()},
                "lines": results.lines,
            }

        quantization = None
        if self.quantization is not None:
            quantization = {
                title: made if isinstance(made, str) else vars(made) for title, made in self.quantization.items()
            }
        formats = {name: vars(made) for name, made in self.formats.items()}
        return {
            "model": self.main.model,
            "formats": formats,
            "main": part(self.main),
            "contexts": part(self.contexts),
            "batches": part(self.batches),
            "quantization": quantization,
        }


def markdown(chapters: list[Chapter], facts: dict) -> str:
    packages = ", ".join(f"{name} {version}" for name, version in sorted(_versions(chapters).items()))
    lines = [
        "# Speed",
        "",
        f"`{facts['command']}`",
        "",
        f"{facts['date']}; {facts['cpu']}, {facts['cores']} cores ({', '.join(facts['instructions'])}), "
        f"{facts['memory'] / 2**30:.0f} GiB; {facts['threads']} threads each; rounds: {facts['rounds']}, contestants in turn, "
        "medians (quartiles).",
        "",
        f"{packages}; Python {facts['python']}, {facts['system']}.",
        "",
    ]
    for chapter in chapters:
        lines += _chapter(chapter)
    return "\n".join(lines).rstrip() + "\n"


def _chapter(chapter: Chapter) -> list[str]:
    results, found = chapter.main, figures(chapter.main, BASE)
    others = sorted(results.disturbances)
    lines = [f"## {results.model}", ""]
    if chapter.interrupted:
        lines += ["Interrupted: not all rounds were measured.", ""]
    if found:
        lines += [
            f"Read bandwidth of memory, measured between contestants: {bandwidth(results):.1f} GB/s. Other programs "
            f"took {others[len(others) // 2]:.0%} of the CPU (at most {others[-1]:.0%}).",
            "",
            *_table(found, DECODE),
            "",
            *_table(found, _rest(found)),
            "",
        ]
    lines += _bytes_alone(found)
    lines += [f"- {name} was made by `{made.command}`." for name, made in chapter.formats.items() if "q4_0" in name]
    lines += [f"- {TITLES[name]} did not take part: {reason}" for name, reason in results.failures.items()]
    for title, part, values in (
        ("Decode tok/s after a context of … tokens", chapter.contexts, lambda f: f.after),
        ("Tokens per second of … questions together", chapter.batches, lambda f: f.batches),
    ):
        if part and (found := figures(part, BASE)):
            sizes = list(values(next(iter(found.values()))))
            columns = [(str(size), _rate_at(values, size)) for size in sizes]
            lines += ["", f"### {title}", "", *_table(found, columns)]
    if chapter.quantization:
        lines += ["", "### Quantization", "", "| | seconds | peak memory |", "|---|---:|---:|"]
        lines += [
            f"| {title} | {made} | |"
            if isinstance(made, str)
            else f"| {title} | {made.seconds:.1f} | {_giga(made.peak)} |"
            for title, made in chapter.quantization.items()
        ]
    return [*lines, ""]


Column = tuple[str, Callable[[Figures], str]]
DECODE: list[Column] = [
    ("decode tok/s", lambda f: _rate(f.decode)),
    ("our INT4 is … times as fast", lambda f: _format(f.slower, ".2f")),
    ("weights read a token", lambda f: f"{f.weight_bytes / 1e6:.0f} MB" if f.weight_bytes else "–"),
    ("GB/s", lambda f: f"{f.achieved / 1e9:.1f}" if f.achieved else "–"),
    ("of the bandwidth", lambda f: f"{f.share:.0%}" if f.share else "–"),
    ("first tokens as FP32", lambda f: "–" if f.equal_tokens is None else str(f.equal_tokens)),
]


def _rest(found: dict[str, Figures]) -> list[Column]:
    columns: list[Column] = []
    for length in next(iter(found.values())).prefill:
        columns += [
            (f"prefill {length} tok/s", _rate_at(lambda f: f.prefill, length)),
            ("our INT4 is … times as fast", _ratio_at(length)),
        ]
    return columns + [
        ("TTFT s", lambda f: _format(f.ttft, ".2f")),
        ("load s", lambda f: _format(f.load, ".1f")),
        ("peak memory", lambda f: _giga(f.peak)),
        ("at load", lambda f: _giga(f.load_peak)),
        ("kernel", lambda f: f.about.get("kernel", "")),
    ]


def _rate_at(values: Callable[[Figures], dict[int, Spread | None]], size: int) -> Callable[[Figures], str]:
    return lambda figure: _rate(values(figure).get(size))


def _ratio_at(length: int) -> Callable[[Figures], str]:
    return lambda figure: _format(figure.slower_prefill.get(length), ".2f")


def _table(found: dict[str, Figures], columns: list[Column]) -> list[str]:
    return [
        "| | " + " | ".join(title for title, _value in columns) + " |",
        "|---|" + "---:|" * len(columns),
        *(
            f"| {TITLES[name]} | " + " | ".join(value(figure) for _title, value in columns) + " |"
            for name, figure in found.items()
        ),
    ]


def _bytes_alone(found: dict[str, Figures]) -> list[str]:
    """INT4 beside the dense variants of the same program, and what their bytes would predict."""
    base = found.get(BASE)
    return [
        f"- INT4 decodes {dense.slower.median:.2f} × as fast as {name.upper()}; bytes alone predict "
        f"{dense.weight_bytes / base.weight_bytes:.2f} ×."
        for name in ("bf16", "fp32", "fp32-wide")
        if base and base.weight_bytes and (dense := found.get(name)) and dense.slower and dense.weight_bytes
    ]


def _rate(value: Spread | None) -> str:
    return _format(value, ".1f" if value is None or value.median < 100 else ".0f")


def _format(value: Spread | None, form: str) -> str:
    return "–" if value is None else format(value, form)


def _giga(size: int) -> str:
    return f"{size / 1e9:.2f} GB"


def _versions(chapters: list[Chapter]) -> dict[str, str]:
    """Of all contestants; where two use different versions of a package, both."""
    seen: dict[str, set[str]] = {}
    for chapter in chapters:
        for figure in figures(chapter.main, BASE).values():
            for package, version in figure.about["versions"].items():
                seen.setdefault(package, set()).add(version)
    return {package: " and ".join(sorted(versions)) for package, versions in seen.items()}
