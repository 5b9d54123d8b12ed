"""Comparing variants: what the answers and figures of runs say about quantization.

`compare` turns run records into a `Comparison`, the one type that reports, the
gate and `comparison.json` (`schema.json`) take.
"""

from itrex_chat.comparison.comparing import compare, compare_runs
from itrex_chat.comparison.types import ONLINE, SCHEMA_VERSION, AnswerPair, Comparison, Figures, ModelComparison

__all__ = [
    "ONLINE",
    "SCHEMA_VERSION",
    "AnswerPair",
    "Comparison",
    "Figures",
    "ModelComparison",
    "compare",
    "compare_runs",
]
