"""Charts as SVG, drawn with the page's own colours (`style.css`), each with a text for those who cannot see it."""

import math
from dataclasses import dataclass

from markupsafe import Markup, escape

from itrex_chat.quality.intervals import Estimate
from itrex_chat.settings.variant import titled

NARROW, WIDTH = 270, 340  # of charts that stand beside others, in user units: legible on a phone as they are
LONG = 760  # of one that stands alone


@dataclass(frozen=True)
class Bar:
    variant: str
    value: float
    text: str


@dataclass(frozen=True)
class Point:
    """One recipe of a sweep: `group` colours it."""

    label: str
    group: str
    x: float
    y: Estimate


def bars(title: str, rows: list[Bar]) -> Markup:
    """A horizontal bar for each variant, from zero on."""
    most = max(row.value for row in rows) or 1
    left = 8 + max(38, *(7 * len(titled(row.variant)) for row in rows))
    parts = []
    for number, row in enumerate(rows):
        top, length = 8 + 30 * number, max(1.0, (189 - left) * row.value / most)
        parts.append(_text(left - 8, top + 15, titled(row.variant), "end"))
        parts.append(
            f'<rect class="fill-{_class(row.variant)}" x="{left}" y="{top}" width="{length:.1f}" height="20" rx="3"/>'
        )
        parts.append(_text(left + 6 + length, top + 15, row.text, "start", "value"))
    return _svg(title, NARROW, 8 + 30 * len(rows), parts)


def quantiles(title: str, labels: list[str], variants: dict[str, list[Estimate]], unit: str) -> Markup:
    """A line for each variant through its quantiles, with their intervals, on a logarithmic scale."""
    variants = {name: line for name, line in variants.items() if any(e.value > 0 for e in line)}
    values = [
        value for line in variants.values() for e in line for value in (e.value, e.low, e.high) if value and value > 0
    ]
    if not values:
        return Markup("")
    low, high = math.floor(math.log10(max(min(values), 1e-7))), math.ceil(math.log10(max(values)))
    high = max(high, low + 1)
    left, top, bottom, right = 54, 14, 196, WIDTH - 12

    def across(index: float) -> float:
        return left + 16 + (right - left - 32) * index / max(1, len(labels) - 1)

    def down(value: float) -> float:
        return bottom - (bottom - top) * (math.log10(max(value, 10.0**low)) - low) / (high - low)

    parts = []
    for power in range(low, high + 1):
        y = down(10.0**power)
        parts += [_line(left, y, right, y, "grid"), _text(left - 6, y + 4, f"{10.0**power:g}", "end")]
    parts += [_text(across(index), bottom + 16, label, "middle") for index, label in enumerate(labels)]
    parts.append(_text(2, bottom + 32, unit, "start"))
    for shift, (variant, line) in enumerate(variants.items()):
        kind, offset = _class(variant), 3 * (shift - (len(variants) - 1) / 2)
        spots = [(across(index) + offset, down(e.value), e) for index, e in enumerate(line)]
        parts.append(f'<polyline class="line-{kind}" points="{" ".join(f"{x:.1f},{y:.1f}" for x, y, _e in spots)}"/>')
        for x, y, e in spots:
            if e.low is not None or e.high is not None:
                ends = [y if end is None else down(end) for end in (e.low, e.high)]
                parts.append(_line(x, ends[0], x, ends[1], f"line-{kind} thin"))
            parts.append(f'<circle class="fill-{kind}" cx="{x:.1f}" cy="{y:.1f}" r="3.2"/>')
    parts += _legend(list(variants), WIDTH - 12, bottom + 32)
    return _svg(title, WIDTH, bottom + 40, parts)


def probabilities(title: str, baseline: str, variant: str, base: list[float], other: list[float]) -> Markup:
    """The right token's probability by both variants along an answer; what lies between is filled."""
    left, top, bottom, right = 50, 10, 130, LONG - 8
    count = max(1, len(base) - 1)

    def spots(values: list[float]) -> list[str]:
        return [
            f"{left + (right - left) * i / count:.1f},{bottom - (bottom - top) * p:.1f}" for i, p in enumerate(values)
        ]

    parts = []
    for share in (0, 0.5, 1):
        y = bottom - (bottom - top) * share
        parts += [_line(left, y, right, y, "grid"), _text(left - 6, y + 4, f"{100 * share:.0f} %", "end")]
    parts.append(f'<polygon class="between" points="{" ".join(spots(base) + spots(other)[::-1])}"/>')
    parts.append(f'<polyline class="line-{_class(baseline)}" points="{" ".join(spots(base))}"/>')
    parts.append(f'<polyline class="line-{_class(variant)}" points="{" ".join(spots(other))}"/>')
    parts += [_text(left, bottom + 16, "1", "middle"), _text(right, bottom + 16, str(len(base)), "end")]
    parts += _legend([baseline, variant], right - 60, bottom + 16)
    return _svg(title, LONG, bottom + 24, parts)


def scatter(title: str, points: list[Point], x_title: str, y_title: str) -> Markup:
    """Recipes by a quantity and what they cost, each with its number in the order given; lower is better."""
    left, top, bottom, right = 60, 22, 300, LONG - 20
    ends = [value for point in points for value in (point.y.value, point.y.low, point.y.high) if value and value > 0]
    if not ends:
        return Markup("")
    low, high = math.log10(min(ends) / 1.15), math.log10(max(ends) * 1.15)
    most, least = max(point.x for point in points), min(point.x for point in points)
    span = (most - least) or most or 1
    least, most = least - 0.08 * span, most + 0.12 * span

    def across(x: float) -> float:
        return left + (right - left) * (x - least) / (most - least)

    def down(y: float) -> float:
        return bottom - (bottom - top) * (math.log10(y) - low) / ((high - low) or 1)

    parts = [_line(left, bottom, right, bottom, "axis"), _line(left, top, left, bottom, "axis")]
    for tick in _ticks(10**low, 10**high):
        parts += [
            _line(left, down(tick), right, down(tick), "grid"),
            _text(left - 6, down(tick) + 4, f"{tick:g}", "end"),
        ]
    for step in range(5):
        x = least + (most - least) * (step + 0.5) / 5
        parts.append(_text(across(x), bottom + 17, f"{x:.0f}", "middle"))
    taken: list[tuple[float, float]] = []
    for number, point in enumerate(points, 1):
        x, y, kind = across(point.x), down(max(point.y.value, 10**low)), _class(point.group)
        if point.y.low and point.y.high:
            parts.append(_line(x, down(point.y.low), x, down(point.y.high), f"line-{kind} thin"))
        aside = x
        while any(math.hypot(aside - other_x, y - other_y) < 19 for other_x, other_y in taken):
            aside += 5
        taken.append((aside, y))
        if aside != x:
            parts += [
                _line(x, y, aside, y, f"line-{kind} thin"),
                f'<circle class="fill-{kind}" cx="{x:.1f}" cy="{y:.1f}" r="3"/>',
            ]
        parts.append(
            f'<circle class="fill-{kind}" cx="{aside:.1f}" cy="{y:.1f}" r="9"><title>{escape(point.label)}</title></circle>'
        )
        parts.append(_text(aside, y + 4, str(number), "middle", "inside"))
    parts += [_text(right, bottom + 34, x_title, "end"), _text(4, 10, y_title, "start")]
    return _svg(title, LONG, bottom + 42, parts)


def columns(title: str, values: list[tuple[str, Estimate]]) -> Markup:
    """A column for each layer, from zero on, with its interval."""
    left, top, bottom, right = 56, 12, 170, LONG - 8
    most = max([e.high or e.value for _label, e in values]) or 1
    step = (right - left) / len(values)
    parts = []
    for share in (0, 0.5, 1):
        y = bottom - (bottom - top) * share
        parts += [_line(left, y, right, y, "grid"), _text(left - 6, y + 4, f"{share * most:.2g}", "end")]
    for index, (label, e) in enumerate(values):
        height, x = (bottom - top) * e.value / most, left + step * index
        parts.append(
            f'<rect class="fill-int4" x="{x + 2:.1f}" y="{bottom - height:.1f}" width="{max(1.0, step - 4):.1f}" '
            f'height="{height:.1f}"/>'
        )
        if e.low is not None and e.high is not None:
            ends = [bottom - (bottom - top) * end / most for end in (e.low, e.high)]
            parts.append(_line(x + step / 2, ends[0], x + step / 2, ends[1], "axis"))
        if len(values) <= 40 or index % 5 == 0:
            parts.append(_text(x + step / 2, bottom + 16, label, "middle"))
    return _svg(title, LONG, bottom + 24, parts)


def _ticks(low: float, high: float) -> list[float]:
    found = [
        digit * 10.0**power
        for power in range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
        for digit in (1, 2, 5)
    ]
    return [tick for tick in found if low <= tick <= high]


def _class(variant: str) -> str:
    return variant if variant in ("fp32", "bf16", "int8", "int4") else "other"


def _legend(variants: list[str], right: float, y: float) -> list[str]:
    parts, x = [], right
    for variant in reversed(variants):
        x -= 9 * len(titled(variant)) + 20
        parts.append(
            f'<rect class="fill-{_class(variant)}" x="{x:.0f}" y="{y - 9:.0f}" width="10" height="10" rx="2"/>'
        )
        parts.append(_text(x + 14, y, titled(variant), "start"))
    return parts


def _svg(title: str, width: int, height: int, parts: list[str]) -> Markup:
    return Markup(
        f'<svg viewBox="0 0 {width} {height}" role="img" aria-label="{escape(title)}">'
        f"<title>{escape(title)}</title>{''.join(parts)}</svg>"
    )


def _text(x: float, y: float, text: str, anchor: str, kind: str = "label") -> str:
    return f'<text class="{kind}" x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(text)}</text>'


def _line(x1: float, y1: float, x2: float, y2: float, kind: str) -> str:
    return f'<line class="{kind}" x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}"/>'
