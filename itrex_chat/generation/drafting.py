"""Drafters: who guesses the next tokens of an answer, so that one pass can check several.

This is speculative decoding (arXiv:2211.17192). What is emitted is what the sampler chooses from each token's logits,
so no drafter changes an answer; it changes how many passes the answer takes.
"""

from typing import Protocol


class Drafter(Protocol):
    """Drafts for one answer. `drafted` and `accepted` count tokens.

    For each pass, `draft` is called with the newest token of the answer, which
    has not been drafted, and then `checked`, if there was a draft. A drafter
    that keeps a state of its own (another decoder's cache) brings it forward
    and takes it back in these two.
    """

    drafted: int
    accepted: int

    def draft(self, token: int, limit: int) -> list[int]:
        """At most `limit` tokens that may follow a new token of the answer; none of them ends it."""

    def checked(self, draft: list[int], accepted: int) -> None:
        """The first `accepted` tokens of the draft were right."""
