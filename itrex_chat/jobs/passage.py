"""Passages: the token ids that variants are scored on."""

import hashlib
import json
from dataclasses import dataclass


@dataclass(frozen=True)
class Passage:
    """Token ids, of which those from index `first` on are predicted, each from all before it.

    Passages are what varies independently: a question's answer, a window of a
    text. `corpus` groups them: the answers, or a text file's name.
    """

    corpus: str
    name: str
    ids: tuple[int, ...]
    first: int

    @property
    def positions(self) -> int:
        return len(self.ids) - self.first

    @property
    def key(self) -> str:
        """A digest of what is predicted, whatever it is called."""
        return hashlib.sha256(json.dumps([self.first, list(self.ids)]).encode()).hexdigest()[:24]
