"""Charts: drawn from whatever figures there are, and as harmless as the rest of the page."""

import xml.etree.ElementTree as ET

import pytest

from itrex_chat.quality.intervals import Estimate
from itrex_chat.report import charts
from itrex_chat.report.charts import Bar, Point

NOTHING = Estimate(0.0, 0.0, 0.0)


def parsed(chart) -> ET.Element:
    """The chart as XML: it is well formed, has a title, and no coordinate is not a number."""
    assert "nan" not in str(chart).lower().replace("<title>", "") and "inf" not in str(chart).replace("</", "")
    root = ET.fromstring(str(chart))
    assert root.find("title").text == root.get("aria-label")
    return root


def test_bars_are_as_long_as_their_values():
    root = parsed(charts.bars("speed", [Bar("fp32", 2.0, "2"), Bar("int4", 8.0, "8"), Bar("other", 0.0, "0")]))
    widths = [float(bar.get("width")) for bar in root.iter("rect")]
    assert widths[1] == pytest.approx(4 * widths[0], abs=0.5) and widths[2] >= 1


@pytest.mark.parametrize(
    "line",
    [
        [Estimate(0.1, 0.05, 0.2), Estimate(1.0, 0.5, None)],
        [Estimate(1e-9), Estimate(5.0)],
        [NOTHING, Estimate(0.3)],
        [Estimate(-1e-8), Estimate(0.01)],
    ],
)
def test_quantiles_are_drawn_on_a_logarithmic_scale_with_what_ends_there_are(line):
    root = parsed(charts.quantiles("kl", ["50 %", "99 %"], {"int4": line, "fp32": [NOTHING, NOTHING]}, "nats"))
    assert len(list(root.iter("polyline"))) == 1  # what is nothing has no line on a logarithmic scale
    assert all(0 <= float(spot.get("cy")) <= 220 for spot in root.iter("circle"))


def test_where_nothing_differs_there_is_no_chart():
    assert charts.quantiles("kl", ["50 %"], {"fp32": [NOTHING]}, "nats") == ""
    assert charts.scatter("s", [Point("a", "int4", 1.0, NOTHING)], "x", "y") == ""


def test_probabilities_lie_between_the_lines_of_0_and_1():
    for base in ([0.5], [0.0, 1.0, 0.3]):
        root = parsed(charts.probabilities("p", "fp32", "int4", base, base[::-1]))
        heights = [float(spot.split(",")[1]) for line in root.iter("polyline") for spot in line.get("points").split()]
        assert all(10 <= height <= 130 for height in heights) and len(heights) == 2 * len(base)


def test_recipes_that_would_cover_each_other_are_moved_apart():
    points = [Point(f"<r{number}>", "int4", 600.0, Estimate(0.05, 0.04, 0.06)) for number in range(5)]
    root = parsed(charts.scatter("<s>", points, "MB", "KL"))
    places = {float(spot.get("cx")) for spot in root.iter("circle") if spot.get("r") == "9"}
    assert len(places) == 5 and min(b - a for a, b in zip(sorted(places), sorted(places)[1:])) >= 19


def test_one_column_for_each_layer():
    root = parsed(charts.columns("layers", [(str(n), Estimate(0.1 * n, 0.05 * n, 0.2 * n)) for n in range(60)]))
    assert len(list(root.iter("rect"))) == 60
