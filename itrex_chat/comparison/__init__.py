"""Comparing variants: what the answers and figures of runs say about quantization.

`compare` turns run records into a `Comparison`, the one type that reports, the
gate and `comparison.json` (`schema.json`) take.
"""

from importlib import import_module
from typing import TYPE_CHECKING

from itrex_chat.comparison.figures import ONLINE

if TYPE_CHECKING:
    from itrex_chat.comparison.comparing import compare, compare_runs
    from itrex_chat.comparison.types import SCHEMA_VERSION, AnswerPair, Comparison, Figures, ModelComparison
else:

    def __getattr__(name: str) -> object:
        """Import what needs numpy when it is first used: `figures` is there without it."""
        if name not in __all__:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        return getattr(import_module(f"{__name__}.{'comparing' if name.startswith('compare') else 'types'}"), name)


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
