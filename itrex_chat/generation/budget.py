"""How much of prompts a pass reads: beside running answers, which are to keep half of their speed, and without any, so that one
need not wait long for its end, to stop it for instance."""

FIRST, LEAST, MOST = 8, 2, 1024  # tokens of prompts in a pass
FIRST_ALONE, LEAST_ALONE = 256, 64  # the same, where there are no answers
LONGEST = 1.0  # seconds of a pass over prompts alone
SLOWER = 1.85  # times as long as without a prompt that a pass may take
NEWEST = 0.2  # of a mean


class Budget:
    """From the seconds that passes took. It decides when prompts are read, never what comes of them."""

    def __init__(self) -> None:
        self._alone: dict[int, float] = {}  # seconds of a pass of so many answers, without a prompt
        self._budget, self._alone_budget = FIRST, FIRST_ALONE

    def prompt_tokens(self, answers: int) -> int:
        """How many tokens of prompts the next pass reads beside so many answers."""
        return self._budget if answers else self._alone_budget

    def took(self, answers: int, prompt: int, seconds: float) -> None:
        if not answers:
            if prompt >= LEAST_ALONE and seconds > 0:
                most = round(min(prompt * LONGEST / seconds, 4 * prompt))
                self._alone_budget = min(max(most, LEAST_ALONE), MOST)
            return
        if not prompt:
            before = self._alone.get(answers, seconds)
            self._alone[answers] = before + NEWEST * (seconds - before)
            return
        if alone := self._nearest(answers):
            fits = prompt * (SLOWER * alone) / seconds if seconds else MOST
            self._budget = min(max(round(min(fits, 2 * prompt)), LEAST), MOST)

    def _nearest(self, answers: int) -> float | None:
        """Seconds of a pass of this number of answers, or the one nearest to it, without a prompt."""
        return self._alone[min(self._alone, key=lambda count: abs(count - answers))] if self._alone else None
