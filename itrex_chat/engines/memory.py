"""How much memory a variant takes."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Memory:
    """Bytes at the peak: `own` of the process, weights that lie in files as they are used, `mapped`, and the `ring` through
    which those pass that do not stay in memory."""

    own: int
    mapped: int = 0
    ring: int = 0

    @property
    def least(self) -> int:
        """What must be left, or the variant cannot run."""
        return self.own + self.ring

    @property
    def total(self) -> int:
        """What must be left for every pass to find all weights in memory."""
        return self.own + self.mapped
