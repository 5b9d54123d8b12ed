"""The comparison as a table of Markdown."""

from dataclasses import asdict

from trained.contest import TEXTS, WIDENED
from trained.divergence import ratio

PLAIN = "INT4 rtn"

NAMES = {"same-kind": "like the training", "other-kind": "another kind"}


def markdown(compared: dict, speeds: dict) -> str:
    """`compared` as `contest` writes it; `speeds` by format, may be empty."""
    rows, about = compared["rows"], compared["about"]
    head = [f"KL, {NAMES[text]}: {by}" for text in TEXTS for by in ("by llama.cpp", "by this program")]
    head += [f"same likeliest, {NAMES[text]}" for text in TEXTS]
    lines = [
        f"{about['weights'] / 1e6:.1f} M weights, {about['positions']} positions in {about['windows']} windows; the 16-bit model's "
        f"perplexity is {_perplexities(rows)}.",
        "",
        f"| | {' | '.join([*head, 'bits a weight', 'MB on disk', 'decode tok/s'])} |",
        f"|---|{'--:|' * (len(head) + 3)}",
    ]
    order = sorted(rows, key=lambda name: ("settings" in rows[name], rows[name]["bits"]))
    for name in order:
        row, cells = rows[name], []
        for text in TEXTS:
            theirs, ours = row["theirs"][text], row["ours"][text]["kld_mean"]
            cells += [f"{theirs['mean']:.5f} ± {theirs['error']:.5f}", _interval(ours, "{:.5f}")]
        cells += [_interval(row["ours"][text]["same_top"], "{:.1%}") for text in TEXTS]
        speed = speeds.get(row["format"])
        cells += [f"{row['bits']:.2f}", f"{row['bytes'] / 1e6:.1f}"]
        cells += [f"{speed['median']:.0f} ({speed['p25']:.0f}–{speed['p75']:.0f})" if speed else "–"]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    lines += ["", *_agreement(rows), *_ratios(rows), *(_front(rows, text) for text in TEXTS)]
    return "\n".join(lines)


def _perplexities(rows: dict) -> str:
    found = {text: rows[WIDENED]["ours"][text]["ppl_base"]["value"] for text in TEXTS}
    return ", ".join(f"{value:.1f} on a text {NAMES[text]}" for text, value in found.items())


def _interval(figure: dict, form: str) -> str:
    low, high = ("…" if figure[end] is None else form.format(figure[end]) for end in ("low", "high"))
    return f"{form.format(figure['value'])} [{low}, {high}]"


def _agreement(rows: dict) -> list[str]:
    """How far apart the two measures are where both see the same weights and no rounded activations."""
    said = []
    for text in TEXTS:
        theirs = rows[WIDENED]["theirs"][text]["mean"]
        ours = rows[WIDENED]["ours"][text]["kld_mean"]["value"]
        said.append(f"{NAMES[text]}: {100 * (ours / theirs - 1):+.2f} %")
    return [f"Of {WIDENED}, this program finds a KL divergence other than llama.cpp's by: {'; '.join(said)}.", ""]


def _ratios(rows: dict) -> list[str]:
    """Our other algorithms beside round-to-nearest, by this program's measure."""
    said = []
    for name, row in rows.items():
        if PLAIN not in rows or name == PLAIN or row["format"] != rows[PLAIN]["format"]:
            continue
        parts = []
        for text in TEXTS:
            found = ratio(row["by_window"][text], rows[PLAIN]["by_window"][text])
            parts.append(f"{_interval(asdict(found), '{:.2f}')} on a text {NAMES[text]}")
        said += [f"{name} has {' and '.join(parts)} of {PLAIN}'s KL divergence.", ""]
    return said


def kl(row: dict, text: str) -> float:
    """The divergence as the format's own program computes it, activations and all."""
    return row["ours"][text]["kld_mean"]["value"] if "settings" in row else row["theirs"][text]["mean"]


def front(rows: dict, text: str) -> list[str]:
    """Who is beaten by nobody with as few bits and a smaller divergence, fewest bits first."""
    others = {name: row for name, row in rows.items() if name != WIDENED}
    unbeaten = [
        name
        for name, row in others.items()
        if not any(
            other["bits"] <= row["bits"]
            and kl(other, text) < kl(row, text)
            or other["bits"] < row["bits"]
            and kl(other, text) <= kl(row, text)
            for other in others.values()
        )
    ]
    return sorted(unbeaten, key=lambda name: others[name]["bits"])


def _front(rows: dict, text: str) -> str:
    return f"Beaten by nothing with as few bits, on a text {NAMES[text]}: {'; '.join(front(rows, text))}."
