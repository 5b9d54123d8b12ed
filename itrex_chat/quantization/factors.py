"""Triangular factors of large matrices, in the memory of these.

LAPACK's would take a second matrix each, and a few times as long where products of matrices are quicker than its own (`products.py`): nearly all of the
work is in products of panels here.
"""

import torch

PANEL = 512  # columns that are done at a time


def factor(matrix: torch.Tensor) -> bool:
    """Make a symmetric matrix, of which the lower part is read, its Cholesky factor: lower triangular, with zeros above. False
    where it has none."""
    width = len(matrix)
    for start in range(0, width, PANEL):
        stop = min(start + PANEL, width)
        corner, failed = torch.linalg.cholesky_ex(matrix[start:stop, start:stop])
        if failed:
            return False
        matrix[start:stop, start:stop] = corner
        matrix[start:stop, stop:] = 0
        below = matrix[stop:, start:stop]
        below.copy_(torch.linalg.solve_triangular(corner.t(), below, upper=True, left=False))
        for first in range(stop, width, PANEL):
            last = min(first + PANEL, width)
            matrix[first:, first:last].addmm_(matrix[first:, start:stop], matrix[first:last, start:stop].t(), alpha=-1)
    return True


def invert(lower: torch.Tensor) -> None:
    """Make a lower triangular matrix its inverse."""
    width = len(lower)
    if width <= PANEL:
        lower.copy_(torch.linalg.solve_triangular(lower, torch.eye(width, dtype=lower.dtype), upper=False))
        return
    half = width // 2
    invert(first := lower[:half, :half])
    invert(last := lower[half:, half:])
    lower[half:, :half] = (last @ lower[half:, :half]).neg_() @ first


def solve(lower: torch.Tensor, values: torch.Tensor) -> None:
    """Make `values`, [width, some], the solution x of A x = values, where A has the factor `lower`."""
    starts = range(0, len(lower), PANEL)
    for start in starts:
        stop = start + PANEL
        part = values[start:stop]
        part.copy_(torch.linalg.solve_triangular(lower[start:stop, start:stop], part, upper=False))
        values[stop:].addmm_(lower[stop:, start:stop], part, alpha=-1)
    for start in reversed(starts):
        stop = start + PANEL
        part = values[start:stop]
        part.copy_(torch.linalg.solve_triangular(lower[start:stop, start:stop].t(), part, upper=True))
        values[:start].addmm_(lower[start:stop, :start].t(), part, alpha=-1)
