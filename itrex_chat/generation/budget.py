"""How much of prompts a pass reads: beside running answers, which are to keep half of their speed, and without any, so that one
need not wait long for its end, to stop it for instance."""

FIRST, LEAST, MOST = 8, 2, 1024  # tokens of prompts in a pass
FIRST_ALONE, LEAST_ALONE = 256, 64  # the same, where there are no answers
LONGEST = 1.0  # seconds of a pass over prompts alone
SLOWER = 1.92  # times as long as without a prompt that a pass may take
NEWEST = 0.5  # of a mean
STEADY = 0.5  # 1: the newest pass alone decides how much the next one reads
WITHOUT = 16  # passes with a prompt, after which one without shows what these take now


class Budget:
    """From the seconds that passes took, now and then one of answers alone, since a machine gets faster and slower while a long
    prompt is read. It decides when prompts are read, never what comes of them."""

    def __init__(self) -> None:
        self._alone: dict[int, float] = {}  # seconds of a pass of so many answers, without a prompt
        self._budget, self._alone_budget = float(FIRST), FIRST_ALONE
        self._with_prompt = 0  # passes since the last one without

    def prompt_tokens(self, answers: int) -> int:
        """How many tokens of prompts the next pass reads beside so many answers; 0 now and then."""
        if not answers:
            return self._alone_budget
        return round(self._budget) if self._with_prompt < WITHOUT else 0

    def took(self, answers: int, prompt: int, seconds: float) -> None:
        if not answers:
            if prompt >= LEAST_ALONE and seconds > 0:
                most = round(min(prompt * LONGEST / seconds, 4 * prompt))
                self._alone_budget = min(max(most, LEAST_ALONE), MOST)
            return
        if not prompt:
            before = self._alone.get(answers, seconds)
            self._alone[answers] = before + NEWEST * (seconds - before)
            self._with_prompt = 0
            return
        self._with_prompt += 1
        if alone := self._nearest(answers):
            fits = min(SLOWER * alone / seconds, 4) if seconds else 4
            read = self._budget if prompt == round(self._budget) else prompt
            self._budget = min(max(read * fits**STEADY, LEAST), MOST)

    def _nearest(self, answers: int) -> float | None:
        """Seconds of a pass of this number of answers, or the one nearest to it, without a prompt."""
        return self._alone[min(self._alone, key=lambda count: abs(count - answers))] if self._alone else None
