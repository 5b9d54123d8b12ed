"""What the algorithms for four bits give on texts that no calibration saw: a table of the mean KL divergence from FP32.

    python benchmarks/algorithms.py --model MODEL.gguf --text english.txt chinese.txt code.txt [--tokens 1024]

The same bytes and the same speed in every row, but for those with a budget; artifacts stay in the cache, and what was measured before is not again.
"""

import argparse
import dataclasses
import itertools
import time
from pathlib import Path

from itrex_chat.artifacts.obtaining import obtain
from itrex_chat.quality import measuring, metrics
from itrex_chat.quality.intervals import Estimate
from itrex_chat.quality.measuring import Measured
from itrex_chat.settings import recipe as recipes
from itrex_chat.settings.quantization import ALGORITHMS, CALIBRATED
from itrex_chat.settings.recipe import Recipe
from itrex_chat.settings.variant import Variant

QUICK = [name for name in ALGORITHMS if name != "autoround"]  # it takes hours


def told(estimate: Estimate, form: str = "{:.4f}") -> str:
    if estimate.low is None or estimate.high is None:  # of one window
        return form.format(estimate.value)
    low, high = (form.format(end) for end in (estimate.low, estimate.high))
    return f"{form.format(estimate.value)} [{low}, {high}]"


def measured(recipe: Recipe, texts: list[Path], tokens: int) -> tuple[Measured, float]:
    """An algorithm's figures, and the seconds that its artifact took, as its manifest says."""
    artifact = obtain(recipe).artifact
    variant = str(Variant.of(recipe.quantization))
    [found] = measuring.measure(recipe, "fp32", [variant], [], texts, tokens).variants
    if found.reason:
        raise SystemExit(found.reason)
    return found, artifact.manifest["statistics"]["seconds"]


def row(name: str, found: Measured, first: Measured, seconds: float) -> str:
    cells = []
    for corpus in found.corpora:
        ratio = corpus.figures["kld_mean"].value / next(
            other.figures["kld_mean"].value for other in first.corpora if other.name == corpus.name
        )
        cells.append(f"{told(corpus.figures['kld_mean'])}, {ratio:.2f} ×")
    together = metrics.estimates(metrics.together(list(found.found.values())))
    of_first = metrics.estimates(metrics.together(list(first.found.values())))
    ratio = together["kld_mean"].value / of_first["kld_mean"].value
    cells.append(f"{told(together['kld_mean'])}, {ratio:.2f} ×")
    cells.append(told(together["same_top"], "{:.3f}"))
    return f"| {name} | " + " | ".join(cells) + f" | {seconds:.0f} s |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default=recipes.EMBEDDED)
    parser.add_argument("--text", nargs="+", type=Path, required=True)
    parser.add_argument("--tokens", type=int, default=1024, help="of each text")
    parser.add_argument("--algorithms", nargs="+", default=QUICK, choices=ALGORITHMS)
    parser.add_argument(
        "--budgets", nargs="+", type=float, default=[0.0], help="bits per weight of the blocks; 0 is none"
    )
    parser.add_argument(
        "--calibration", nargs="+", default=[], help="texts to calibrate on instead of the program's own"
    )
    parser.add_argument("--set", nargs=2, action="append", default=[], metavar=("KEY", "VALUE"))
    arguments = parser.parse_args()
    first: Measured | None = None
    names = [*(text.name for text in arguments.text), "together", "same likeliest token", "made in"]
    print(f"| | {' | '.join(names)} |\n|---|{'--:|' * len(names)}")
    for algorithm, budget in itertools.product(arguments.algorithms, arguments.budgets):
        recipe = recipes.load(arguments.model, [text for pair in arguments.set for text in pair])
        calibration = tuple(str(Path(text).absolute()) for text in arguments.calibration)
        chosen = dataclasses.replace(
            recipe.quantization,
            algorithm=algorithm,
            budget=budget,
            calibration=calibration if algorithm in CALIBRATED or budget else (),
        )
        found, seconds = measured(dataclasses.replace(recipe, quantization=chosen), arguments.text, arguments.tokens)
        first = first or found
        name = f"{algorithm}, {budget:g} bits" if budget else algorithm
        print(row(name, found, first, seconds), flush=True)
    print(f"\n{time.strftime('%Y-%m-%d')}")


if __name__ == "__main__":
    main()
