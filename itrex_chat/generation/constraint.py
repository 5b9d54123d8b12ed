"""What an answer has to be: which tokens may come next."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    import torch


class Constraint(Protocol):
    """Goes along with one answer. Raises GenerationError where nothing may come any more."""

    def allowed(self) -> torch.Tensor:
        """Which tokens may come next, bool [vocabulary]; those that end an answer only where it is complete."""

    def take(self, token: int) -> None:
        """Go on behind a token."""
