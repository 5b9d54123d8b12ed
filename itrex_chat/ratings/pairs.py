"""What people and judges rate."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Pair:
    """Two answers to one question, from the baseline and from another variant of a model.

    `id` is the question's, `expected` what its set expects, "" for nothing; `baseline` and `variant` are such as
    "fp32" and "int4".
    """

    model: str
    id: str
    question: str
    expected: str
    baseline: str
    variant: str
    baseline_text: str
    variant_text: str
