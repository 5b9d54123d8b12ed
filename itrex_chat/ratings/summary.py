"""What people's ratings say: means, and the difference with an interval that counts questions."""

from dataclasses import dataclass
from statistics import mean
from typing import Any

import numpy as np

from itrex_chat.quality import intervals
from itrex_chat.quality.intervals import Estimate, Sample
from itrex_chat.ratings.criteria import CRITERIA


@dataclass(frozen=True)
class Rated:
    """One criterion for one variant; stars from 1 to 5. `difference` is the variant's mean less the baseline's."""

    criterion: str
    ratings: int
    raters: int
    baseline: float
    variant: float
    difference: Estimate


def summary(ratings: list[dict[str, Any]], model: str) -> dict[str, list[Rated]]:
    """By variant, the criteria that were rated for a model."""
    found = {}
    for variant in dict.fromkeys(rating["variant"] for rating in ratings if rating["model"] == model):
        chosen = [rating for rating in ratings if (rating["model"], rating["variant"]) == (model, variant)]
        rows = [
            _rated(name, variant, [rating for rating in chosen if name in rating["scores"]])
            for name in CRITERIA
            if any(name in rating["scores"] for rating in chosen)
        ]
        if rows:
            found[variant] = rows
    return found


def _rated(criterion: str, variant: str, ratings: list[dict[str, Any]]) -> Rated:
    ratings = sorted(ratings, key=lambda rating: rating["question"])
    questions = {name: index for index, name in enumerate(dict.fromkeys(rating["question"] for rating in ratings))}
    base = [rating["scores"][criterion][rating["baseline"]] for rating in ratings]
    other = [rating["scores"][criterion][variant] for rating in ratings]
    sample = Sample(np.subtract(other, base).astype(float), np.array([questions[r["question"]] for r in ratings]))
    return Rated(
        criterion,
        len(ratings),
        len({rating["rater"] for rating in ratings}),
        mean(base),
        mean(other),
        intervals.mean(sample),
    )
