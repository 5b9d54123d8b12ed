"""What quantization did to a model, in numbers."""

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

from itrex_chat.foundation.language import _
from itrex_chat.foundation.units import readable

if TYPE_CHECKING:  # torch is not needed to show what was recorded
    from itrex_chat.quantization.plan import Treatment


ALGORITHMS = {
    "rtn": "Round-to-nearest",
    "search": "Scales of least squared error",
    "importance": "Scales of least squared error, weighted by the mean squares of activations",
    "awq": "AWQ with searched scales",
    "autoround": "AutoRound",
    "gptq": "GPTQ with searched scales",
}


@dataclass(frozen=True)
class Statistics:
    """`linear`: matrices by their precision, such as {"INT4 G32": 168, "FP16": 1}; `weights`: their number in
    all; `block_bits`: bits per weight of the blocks' matrices; sizes in bytes; time in seconds; `regrouped`: matrices that got a smaller group size than the recipe asks for."""

    linear: dict[str, int]
    embedding: str
    weights: int
    block_bits: float
    bytes_before: int
    bytes_after: int
    regrouped: dict[str, int]
    seconds: float
    peak_memory: int

    @property
    def bits_per_weight(self) -> float:
        return 8 * self.bytes_after / self.weights

    def line(self) -> str:
        """One line: bits per weight, size before and after, time and peak memory."""
        return _(
            "{bits:.2f} bits per weight ({block_bits:.2f} in the decoder blocks); {before} before, {after} after; "
            "{seconds:.1f} s; peak memory {peak}",
            bits=self.bits_per_weight,
            block_bits=self.block_bits,
            before=readable(self.bytes_before),
            after=readable(self.bytes_after),
            seconds=self.seconds,
            peak=readable(self.peak_memory),
        )

    def table(self) -> str:
        """The table that ITREX's users know: operator type, total, and how many in which precision."""
        kinds = sorted(self.linear, key=lambda kind: (kind.startswith(("FP", "BF")), kind))
        rows: list[list[object]] = [
            ["Op Type", "Total", *kinds],
            ["Linear", sum(self.linear.values()), *(self.linear[kind] for kind in kinds)],
            ["Embedding", 1, *(1 if kind == self.embedding else 0 for kind in kinds)],
        ]
        if self.embedding not in kinds:
            rows = [[*row, extra] for row, extra in zip(rows, (self.embedding, 0, 1))]
        widths = [max(len(str(row[i])) for row in rows) for i in range(len(rows[0]))]
        rule = "+" + "+".join("-" * (width + 2) for width in widths) + "+"
        lines = ["|" + "|".join(f" {value!s:^{width}} " for value, width in zip(row, widths)) + "|" for row in rows]
        title = "|" + "Mixed Precision Statistics".center(len(rule) - 2, "*") + "|"
        return "\n".join([title, rule, lines[0], rule, *lines[1:], rule])


def precision(treatment: "Treatment") -> str:
    """A matrix's precision, such as "INT4 G32" (groups of 32) or "FP16"."""
    if treatment.bits:
        return f"INT{treatment.bits} G{treatment.group_size}"
    return {"float32": "FP32", "float16": "FP16", "bfloat16": "BF16"}[str(treatment.dtype).removeprefix("torch.")]


def summarize(
    treatments: "list[Treatment]",
    wanted_group: int,
    bytes_before: int,
    seconds: float,
    peak_memory: int,
    budget: bool = False,
) -> Statistics:
    """The statistics of an artifact; with a `budget` no group size was wanted for the matrices of the blocks."""
    matrices = [treatment for treatment in treatments if treatment.spec.role in ("linear", "head")]
    blocks = [treatment for treatment in matrices if treatment.spec.role == "linear"]
    embedding = next(treatment for treatment in treatments if treatment.spec.role == "embedding")
    return Statistics(
        linear=dict(Counter(precision(treatment) for treatment in matrices)),
        embedding=precision(embedding),
        weights=sum(treatment.spec.size for treatment in treatments),
        block_bits=8 * sum(t.nbytes() for t in blocks) / sum(t.spec.size for t in blocks),
        bytes_before=bytes_before,
        bytes_after=sum(treatment.nbytes() for treatment in treatments),
        regrouped={
            treatment.name: treatment.group_size
            for treatment in matrices
            if treatment.bits and treatment.group_size != wanted_group and not treatment.taken
            if not budget or treatment.spec.role == "head"
        },
        seconds=seconds,
        peak_memory=peak_memory,
    )
