"""So many bits per weight, spent where they pay: the kind of each matrix of the blocks.

Counted are integers, float16 scales, and the values of what is kept, over the weights of all matrices of the blocks: what a
token reads of them. The head, the embedding, norms and biases are not, nor the zero points, all the same, that files have for
other programs.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch

from itrex_chat.architecture.layout import TensorSpec
from itrex_chat.foundation.errors import RecipeError
from itrex_chat.foundation.language import _
from itrex_chat.settings.quantization import GROUP_SIZES, WEIGHT_DTYPES

SCALE_BITS = 16


@dataclass(frozen=True)
class Kind:
    """What a matrix can be: integers of `weight_dtype` in groups of `group_size`, or, "" and 0, as it is stored. `bits` for
    each weight, with the scales."""

    weight_dtype: str
    group_size: int
    bits: float


@dataclass(frozen=True)
class Candidate:
    """A matrix of `size` weights, the kinds that it can be, and what each is expected to lose: its addition to the mean KL
    divergence, in nats."""

    name: str
    size: int
    kinds: Sequence[Kind]
    losses: Sequence[float]


def kinds_of(spec: TensorSpec, stored: torch.dtype, weight_dtype: str) -> list[Kind]:
    """The kinds of a matrix: 4 bits in the groups that fit, 8 bits in the largest of them, and what it is stored as."""
    fitting = [size for size in GROUP_SIZES if spec.shape[-1] % size == 0]
    found = [(weight_dtype, size) for size in fitting] + [("int8", size) for size in fitting[-1:]]
    return [Kind(name, size, WEIGHT_DTYPES[name] + SCALE_BITS / size) for name, size in found] + [kept(stored)]


def kept(stored: torch.dtype) -> Kind:
    return Kind("", 0, 8.0 * stored.itemsize)


def chosen(candidates: Sequence[Candidate], fixed: Sequence[tuple[int, float]], budget: float) -> dict[str, Kind]:
    """The kind of each matrix by name, such that all of them, with the weights and bits of those that are `fixed`, have at
    most `budget` bits per weight, and lose little.

    From the fewest bits on, whatever makes up for the most loss with a bit is taken next, as long as there is room for it.
    Raises RecipeError where there are fewer bits than the matrices take at least.
    """
    kinds = {each.name: _least(each) for each in candidates}
    weights = sum(each.size for each in candidates) + sum(size for size, _bits in fixed)
    used = sum(size * bits for size, bits in fixed) + sum(each.size * kinds[each.name].bits for each in candidates)
    left = budget * weights - used
    if left < -1e-6 * weights:
        raise RecipeError(
            _(
                "quantization.budget {budget:g} is less than the {least:.3f} bits per weight that this model's blocks take at "
                "least; set {least:.3f} or more, or keep fewer layers.",
                budget=budget,
                least=used / weights,
            )
        )
    for candidate, kind in sorted(_steps(candidates), key=_worth, reverse=True):
        bits = candidate.size * (kind.bits - kinds[candidate.name].bits)
        if 0 < bits <= left + 1e-6 * weights:
            kinds[candidate.name], left = kind, left - bits
    return kinds


def bits_per_weight(parts: Mapping[str, Kind], sizes: Mapping[str, int]) -> float:
    """What matrices of these kinds and sizes take."""
    return sum(sizes[name] * kind.bits for name, kind in parts.items()) / sum(sizes[name] for name in parts)


def _least(candidate: Candidate) -> Kind:
    return min(candidate.kinds, key=lambda kind: kind.bits)


def _steps(candidates: Sequence[Candidate]) -> list[tuple[Candidate, Kind]]:
    """The kinds on the lower convex hull of each matrix's losses over bits, but the first."""
    return [(each, kind) for each in candidates for kind in _hull(each)[1:]]


def _hull(candidate: Candidate) -> list[Kind]:
    """The kinds that pay: each step from one to the next makes up for less with a bit than the one before."""
    pairs = sorted(zip(candidate.kinds, candidate.losses), key=lambda pair: (pair[0].bits, pair[1]))
    hull = pairs[:1]
    while rest := [pair for pair in pairs if pair[0].bits > hull[-1][0].bits and pair[1] < hull[-1][1]]:
        hull.append(max(rest, key=lambda pair: (hull[-1][1] - pair[1]) / (pair[0].bits - hull[-1][0].bits)))
    return [kind for kind, _loss in hull]


def _worth(step: tuple[Candidate, Kind]) -> float:
    """The loss that a step makes up for with each bit, beside the kind before it on the hull."""
    candidate, kind = step
    losses, hull = dict(zip(candidate.kinds, candidate.losses)), _hull(candidate)
    before = hull[hull.index(kind) - 1]
    return (losses[before] - losses[kind]) / ((kind.bits - before.bits) * candidate.size)
