"""What drafts by another decoder are worth: from measured times and from how often they were right.

With `k` drafted tokens, each right with probability a, a pass gives 1 + a + … + a^k tokens (arXiv:2211.17192, equation 1)
and takes k passes of the drafter and one of the decoder over k + 1 rows. All of these are measured while answers are
made. They decide how many tokens are drafted and whether any are, never which token is chosen.
"""

import math
from bisect import bisect_right
from collections import deque
from statistics import median

RECENT = 9  # passes of each number of rows that count
REMEMBERED = 256  # passes: what several rows took longer ago counts no more
SLOPE, LIKELY_ROWS = 0.08, 15  # of a pass that a further row is likely to take, and of how many such rows
SURENESS = (0.3, 0.5, 0.7, 0.8, 0.9, 0.95, 0.98, 0.99, 0.997, 0.999)
PRIOR, PRIOR_WEIGHT = 0.8, 8.0  # tokens that were right, as long as few were judged
FADING = 1 - 1 / 64  # of what counts for the next tokens: the last hundred or so
MARGIN = 1.05  # times the rate without drafts, or they are not worth it


class PassCosts:
    """Seconds that a decoder's passes take by their rows: a line through the medians of the recent ones, and where a
    number of rows was tried, the more its median the more often."""

    def __init__(self) -> None:
        self._taken: dict[int, deque[tuple[int, float]]] = {}  # the number of the pass, seconds
        self._passes = 0
        self.prompt_token = math.inf  # seconds for each token of a prompt, at best

    def add(self, rows: int, seconds: float) -> None:
        self._passes += 1
        self._taken.setdefault(rows, deque(maxlen=RECENT)).append((self._passes, seconds))

    def add_prompt(self, tokens: int, seconds: float) -> None:
        self.prompt_token = min(self.prompt_token, seconds / tokens)

    def tried(self, rows: int) -> bool:
        return rows in self._taken

    def of(self, rows: int) -> float:
        """Seconds of a pass over so many rows; 1 before there was any."""
        medians = self._medians()
        if not medians:
            return 1.0
        taken, count = medians.get(rows, (0.0, 0))
        return (_line(medians, rows) + count * taken) / (1 + count)

    def _medians(self) -> dict[int, tuple[float, int]]:
        """By rows the median, and of how many passes. What took long once, because the machine was busy, is forgotten."""
        found = {}
        for rows, taken in self._taken.items():
            recent = [seconds for number, seconds in taken if rows == 1 or number > self._passes - REMEMBERED]
            if recent:
                found[rows] = median(recent), len(recent)
        return found


def _line(medians: dict[int, tuple[float, int]], rows: int) -> float:
    """The line through medians, each as heavy as it has passes; as long as these are of one or two numbers of rows, also
    through what is likely for many."""
    points = [(count, seconds, heavy) for count, (seconds, heavy) in medians.items()]
    if len(points) < 3:
        first, least, _heavy = min(points)
        points.append((first + LIKELY_ROWS, least * (1 + LIKELY_ROWS * SLOPE), 1))
    weight = sum(heavy for _count, _seconds, heavy in points)
    middle = sum(heavy * count for count, _seconds, heavy in points) / weight
    mean = sum(heavy * seconds for _count, seconds, heavy in points) / weight
    spread = sum(heavy * (count - middle) ** 2 for count, _seconds, heavy in points)
    slope = sum(heavy * (count - middle) * (seconds - mean) for count, seconds, heavy in points) / spread
    return mean + max(0.0, slope) * (rows - middle)


class Odds:
    """How often a drafter's choices are right: of late, and by the probability that it gave to each."""

    def __init__(self) -> None:
        self._right, self._judged = [0.0] * (len(SURENESS) + 1), [0] * (len(SURENESS) + 1)
        self._late = [PRIOR * PRIOR_WEIGHT, PRIOR_WEIGHT]  # right, judged

    def judge(self, sureness: float, right: bool) -> None:
        """A choice to which the drafter gave the probability `sureness` was right, or was not."""
        place = bisect_right(SURENESS, sureness)
        self._right[place] += right
        self._judged[place] += 1
        self._late = [FADING * self._late[0] + right, FADING * self._late[1] + 1]

    def of(self, sureness: float) -> float:
        """The probability that such a choice is right."""
        place = bisect_right(SURENESS, sureness)
        return (self._right[place] + PRIOR_WEIGHT * sureness) / (self._judged[place] + PRIOR_WEIGHT)

    @property
    def late(self) -> float:
        """The probability that a choice is right of which nothing is known."""
        return min(self._late[0] / self._late[1], 0.999)


class Payoff:
    """A decoder and its drafter: `passes` and `drafts` are what their passes take. `likely_share` of a pass of the
    decoder is what one of the drafter takes, as long as none was made.

    `sequences` decode in one pass; each drafts by itself.
    """

    def __init__(self, likely_share: float):
        self.passes, self.drafts, self.odds = PassCosts(), PassCosts(), Odds()
        self.sequences = 1
        self._likely_share = likely_share
        self._answers = self._tokens = 0

    def answered(self, tokens: int) -> None:
        """An answer had so many tokens."""
        self._answers += 1
        self._tokens += tokens

    def length(self, most: int) -> int:
        """How many tokens to draft on average, `most` at most; 0 where drafts are not worth it."""
        rates = [self._rate(count) for count in range(most + 1)]
        best = max(range(most + 1), key=rates.__getitem__)
        return best if rates[best] > MARGIN * rates[0] else 0

    def goes_on(self, odds: float, drafted: int, most: int) -> bool:
        """Whether to draft another token, behind so many that are all right with probability `odds`."""
        gain = odds * self.odds.late
        return gain > self._best(most) * (self._draft_seconds() + self._row_seconds(drafted + 1))

    def takes(self, odds: float, drafted: int, most: int) -> bool:
        """Whether a token that is chosen belongs into the draft, which is then right with probability `odds`."""
        return odds > self._best(most) * self._row_seconds(drafted + 1)

    def worth_reading(self, prompt: int, room: int, most: int) -> bool:
        """Whether what drafts save in an answer that may have `room` more tokens is more than reading its prompt takes."""
        length = self.length(most)
        per_token = min(self.drafts.prompt_token, self.passes.prompt_token)
        expected = min(room, self._tokens / self._answers if self._answers else room / 2)
        return bool(length) and (1 / self._rate(0) - 1 / self._rate(length)) * expected > prompt * per_token

    def _best(self, most: int) -> float:
        return max(self._rate(count) for count in range(most + 1))

    def _rate(self, drafted: int) -> float:
        """Tokens per second of a sequence with so many drafted in each pass."""
        late = self.odds.late
        expected = (1 - late ** (drafted + 1)) / (1 - late)
        return expected / (self.sequences * drafted * self._draft_seconds() + self._pass_seconds(drafted + 1))

    def _pass_seconds(self, rows: int) -> float:
        """Of a pass with so many rows of each sequence."""
        return self.passes.of(self.sequences * rows)

    def _row_seconds(self, rows: int) -> float:
        """What another row takes in such a pass."""
        return max(0.0, self._pass_seconds(rows + 1) - self._pass_seconds(rows))

    def _draft_seconds(self) -> float:
        return self.drafts.of(1) if self.drafts.tried(1) else self._likely_share * self._pass_seconds(1)
