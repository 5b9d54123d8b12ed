"""Estimates with 95 % intervals that respect dependence within a passage.

Positions of one passage are alike, so passages are what is counted as
independent: a mean's standard error comes from the passages' totals (the
linearized variance of a ratio under cluster sampling, Cochran 1977, §6.3) with
Student's t on passages - 1 degrees of freedom; a quantile's interval from that
of the share of positions below it (Woodruff 1952). Means that cannot be
negative get their interval on the logarithmic scale, shares theirs by
Wilson's formula (1927) with the number of positions that would be as
informative if they were independent.
"""

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

CONFIDENCE = 0.95
ALIKE = 64  # positions that count as one where no difference was seen to tell how alike they are


@dataclass(frozen=True)
class Estimate:
    """A figure and the interval that holds the true one in 95 % of samples; None is an open or unknown end."""

    value: float
    low: float | None = None
    high: float | None = None

    def mapped(self, function: Callable[[float], float]) -> "Estimate":
        """The estimate of an increasing function of the figure."""
        low, high = (None if end is None else function(end) for end in (self.low, self.high))
        return Estimate(function(self.value), low, high)


@dataclass(frozen=True)
class Sample:
    """Values of all positions, float64 [n], and the passage each belongs to, int [n], from 0 on without gaps."""

    values: np.ndarray
    passages: np.ndarray

    @property
    def clusters(self) -> int:
        return int(self.passages[-1]) + 1 if len(self.passages) else 0

    def of(self, values: np.ndarray) -> "Sample":
        return Sample(values, self.passages)


def mean(sample: Sample) -> Estimate:
    """The mean of all positions."""
    value, error = _mean_and_error(sample)
    if error is None:
        return Estimate(value)
    reach = student(sample.clusters - 1) * error
    return Estimate(value, value - reach, value + reach)


def positive_mean(sample: Sample) -> Estimate:
    """The mean of values whose mean cannot be negative; its interval is as wide above as below in ratio."""
    value, error = _mean_and_error(sample)
    if error is None or value <= 0:
        return Estimate(value)
    reach = math.exp(min(student(sample.clusters - 1) * error / value, 700))
    return Estimate(value, value / reach, value * reach)


def root_mean_square(sample: Sample) -> Estimate:
    return positive_mean(sample.of(sample.values**2)).mapped(lambda value: math.sqrt(max(value, 0.0)))


def share(sample: Sample) -> Estimate:
    """The share of ones among zeros and ones."""
    value, error = _mean_and_error(sample)
    if error is None:
        return Estimate(value)
    return Estimate(value, *_wilson(value, _informative(value, error, sample), student(sample.clusters - 1)))


def quantile(sample: Sample, probability: float) -> Estimate:
    """The value that this share of positions does not exceed; an end beyond the values seen is None."""
    ordered = np.sort(sample.values)
    count = len(ordered)
    value = float(ordered[min(count - 1, max(0, math.ceil(probability * count) - 1))])
    below = sample.of((sample.values <= value).astype(float))
    reached, error = _mean_and_error(below)
    if error is None:
        return Estimate(value)
    low, high = _wilson(probability, _informative(reached, error, below), student(sample.clusters - 1))
    first, last = math.floor(low * count), math.ceil(high * count)
    return Estimate(
        value,
        float(ordered[first - 1]) if first >= 1 else None,
        float(ordered[last - 1]) if high * count <= count - 1 else None,
    )


@functools.cache
def student(degrees: int) -> float:
    """The 97.5 % quantile of Student's t, by integrating its density (t = √degrees · tan θ)."""
    angles = np.linspace(0, math.pi / 2, 200_001)
    density = np.cos(angles) ** (degrees - 1)
    reached = np.concatenate([[0], np.cumsum(density[1:] + density[:-1])])
    return math.sqrt(degrees) * math.tan(np.interp(CONFIDENCE * reached[-1], reached, angles))


def _mean_and_error(sample: Sample) -> tuple[float, float | None]:
    """The mean and its standard error (None for one passage alone)."""
    value, clusters = float(sample.values.mean()), sample.clusters
    if clusters < 2:
        return value, None
    totals = np.bincount(sample.passages, sample.values - value)
    return value, math.sqrt(clusters / (clusters - 1) * float((totals**2).sum())) / len(sample.values)


def _informative(value: float, error: float, sample: Sample) -> float:
    """How many independent positions would tell as much."""
    count = len(sample.values)
    if error == 0 or value in (0.0, 1.0):
        return max(sample.clusters, count / ALIKE)
    return max(1.0, min(count, value * (1 - value) / error**2))


def _wilson(value: float, count: float, t: float) -> tuple[float, float]:
    center = (value + t * t / (2 * count)) / (1 + t * t / count)
    reach = t / (1 + t * t / count) * math.sqrt(value * (1 - value) / count + t * t / (4 * count * count))
    return (0.0 if value == 0 else max(0.0, center - reach)), (1.0 if value == 1 else min(1.0, center + reach))
