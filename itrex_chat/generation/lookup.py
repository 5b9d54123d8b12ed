"""Prompt lookup: guessing an answer's next tokens from text that was there before.

Where the last tokens occurred before, in the prompt or in the answer, what
followed them there is a draft of what follows now. The decoder reads a draft
in one pass, and the tokens that are chosen from its logits decide how much of
it was right. This is speculative decoding (arXiv:2211.17192) with drafts from
n-grams, as with `prompt_lookup_num_tokens` in transformers.
"""

NGRAMS = (4, 3, 2)  # tokens that must have occurred before, the most telling first
SHORTEST, LONGEST = 3, 7  # tokens of a draft, at first and at most
LONGEST_PAUSE = 64  # tokens without a draft, after drafts that were wrong


class PromptLookup:
    """Drafts for one answer. They depend on the tokens alone, never on time, so that a run can be repeated.

    A draft that was right makes the next one longer. One that was wrong from
    its first token is followed by a pause, the next such one by a pause twice
    as long. `drafted` and `accepted` count tokens.
    """

    def __init__(self, prompt: list[int], stop_ids: frozenset[int]):
        self.drafted = self.accepted = 0
        self._tokens: list[int] = []
        self._stop_ids = stop_ids
        self._behind: dict[
            tuple[int, ...], int
        ] = {}  # n-gram: the index behind its last occurrence but that at the end
        self._length, self._pause, self._resume = SHORTEST, 1, 0
        self._extend(prompt)

    def draft(self, token: int, limit: int) -> list[int]:
        """At most `limit` tokens that may follow a new token of the answer; none of them ends it."""
        self._extend([token])
        tokens, draft = self._tokens, list[int]()
        if len(tokens) < self._resume or (start := self._found()) is None:
            return draft
        period = len(tokens) - start  # text that repeats itself is taken to go on so
        for i in range(min(limit, self._length)):
            token = tokens[start + i % period]
            if token in self._stop_ids:
                break
            draft.append(token)
        return draft

    def checked(self, draft: list[int], accepted: int) -> None:
        """Take the tokens of a draft that were right, and learn from how many they are."""
        self.drafted += len(draft)
        self.accepted += accepted
        self._extend(draft[:accepted])
        if accepted:
            self._length = min(2 * self._length, LONGEST) if accepted == len(draft) else max(accepted, SHORTEST)
            self._pause = 1
        else:
            self._length, self._resume = SHORTEST, len(self._tokens) + self._pause
            self._pause = min(2 * self._pause, LONGEST_PAUSE)

    def _found(self) -> int | None:
        """The index behind an earlier occurrence of the last tokens."""
        for count in NGRAMS:
            if (start := self._behind.get(tuple(self._tokens[-count:]))) is not None:
                return start
        return None

    def _extend(self, tokens: list[int]) -> None:
        for token in tokens:
            for count in NGRAMS:
                if len(self._tokens) >= count:
                    self._behind[tuple(self._tokens[-count:])] = len(self._tokens)
            self._tokens.append(token)
