"""The figures of one variant on one corpus, from the scores of all positions."""

import math
from dataclasses import dataclass, fields

import numpy as np

from itrex_chat.quality import intervals
from itrex_chat.quality.intervals import Estimate, Sample

KL_QUANTILES = {"kld_median": 0.5, "kld_90": 0.9, "kld_99": 0.99, "kld_999": 0.999}
CHANGE_QUANTILES = {
    "dp_1": 0.01,
    "dp_5": 0.05,
    "dp_25": 0.25,
    "dp_median": 0.5,
    "dp_75": 0.75,
    "dp_95": 0.95,
    "dp_99": 0.99,
}


@dataclass(frozen=True)
class Positions:
    """What was found at each position of a corpus, float64 [n]; `passages` int [n], from 0 on."""

    passages: np.ndarray
    kl: np.ndarray
    sampling_variance: np.ndarray
    base_log: np.ndarray  # of the right token, by the baseline
    log: np.ndarray  # by the variant
    same_top: np.ndarray


def positions(references: list[dict[str, np.ndarray]], scores: list[dict[str, np.ndarray]]) -> Positions:
    """One corpus, from the stored arrays of its passages."""

    def joined(parts: list[dict[str, np.ndarray]], name: str) -> np.ndarray:
        return np.concatenate([part[name] for part in parts]).astype(np.float64)

    return Positions(
        np.repeat(np.arange(len(scores)), [len(part["kl"]) for part in scores]),
        joined(scores, "kl"),
        joined(scores, "sampling_variance"),
        joined(references, "target_log"),
        joined(scores, "target_log"),
        joined(scores, "same_top"),
    )


def together(parts: list[Positions]) -> Positions:
    """All corpora as one."""
    starts = np.cumsum([0, *(int(part.passages[-1]) + 1 for part in parts)])
    joined = {field.name: np.concatenate([getattr(part, field.name) for part in parts]) for field in fields(Positions)}
    joined["passages"] = np.concatenate([part.passages + start for part, start in zip(parts, starts)])
    return Positions(**joined)


def estimates(found: Positions) -> dict[str, Estimate]:
    """All figures by name. Divergences in nats, shares from 0 to 1, changes of probability from -1 to 1.

    `ppl` is the variant's perplexity, `ppl_base` the baseline's; `kld_*` are
    of KL(baseline ‖ variant); `dp_*` of the change of the right token's
    probability; `same_top` is how often both find the same token likeliest.
    """
    kl = Sample(found.kl, found.passages)
    change = kl.of(np.exp(found.log) - np.exp(found.base_log))
    figures = {
        "ppl_base": intervals.mean(kl.of(-found.base_log)).mapped(_exp),
        "ppl": intervals.mean(kl.of(-found.log)).mapped(_exp),
        "ppl_ratio": intervals.mean(kl.of(found.base_log - found.log)).mapped(_exp),
        "kld_mean": intervals.positive_mean(kl),
        **{name: intervals.quantile(kl, probability) for name, probability in KL_QUANTILES.items()},
        "kld_max": Estimate(float(found.kl.max())),
        "same_top": intervals.share(kl.of(found.same_top)),
        "dp_mean": intervals.mean(change),
        "dp_rms": intervals.root_mean_square(change),
        **{name: intervals.quantile(change, probability) for name, probability in CHANGE_QUANTILES.items()},
    }
    if not (found.kl.any() or change.values.any()):  # the same predictions: nothing is uncertain about it
        same = {"ppl_ratio": 1.0, "same_top": 1.0}
        figures |= {
            name: Estimate(same.get(name, 0.0), same.get(name, 0.0), same.get(name, 0.0))
            for name in figures
            if name not in ("ppl", "ppl_base")
        }
    return figures


def compaction_error(found: Positions) -> float:
    """The standard error that keeping the baseline compactly adds to the mean divergence, in nats."""
    return math.sqrt(float(found.sampling_variance.sum())) / len(found.kl)


def difference(first: Positions, second: Positions) -> Estimate:
    """How much larger the second variant's mean divergence is, position by position on the same passages."""
    return intervals.mean(Sample(second.kl - first.kl, first.passages))


def _exp(value: float) -> float:
    return math.exp(min(value, 700.0))
