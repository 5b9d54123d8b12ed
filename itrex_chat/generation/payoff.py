"""What drafts by another decoder are worth: from measured times and from how often they were right.

With `k` drafted tokens, each right with probability a, a pass gives 1 + a + … + a^k tokens (arXiv:2211.17192, equation 1)
and takes k passes of the drafter and one of the decoder over k + 1 rows. All of these are measured while answers are
made. They decide how many tokens are drafted and whether any are, never which token is chosen.
"""

import math
from bisect import bisect_right
from dataclasses import dataclass

RECENT = 9  # passes, more of a number of rows weigh no more than that
REMEMBERED = 256  # passes: what a number of rows took longer ago counts no more
PACE, STEADY = 0.25, 64  # how much of a surprise is the machine's, and passes over which what rows take is averaged
KNOWN = 4  # passes of a number of rows, from which on another one tells the machine's pace
SURPRISE = math.log(2)  # more is no news of what passes take: something else had the processor
SLOPE, LIKELY_ROWS = 0.08, 15  # of a pass that a further row is likely to take, and of how many such rows
SURENESS = (0.3, 0.5, 0.7, 0.8, 0.9, 0.95, 0.98, 0.99, 0.997, 0.999)
PRIOR, PRIOR_WEIGHT = 0.8, 8.0  # tokens that were right, as long as few were judged
ALIKE, ALIKE_WEIGHT = 0.5, 4.0  # of what a drafter is not sure of is right, as long as few were judged
FADING = 1 - 1 / 64  # of what counts for the next tokens: the last hundred or so
MARGIN = 1.05  # times the rate without drafts, or they are not worth it


@dataclass
class Pace:
    """How slow the machine is now, as a logarithm beside what it was at first. What else runs, heat, and neighbours on the same
    memory slow all passes alike, those that were last seen long ago too."""

    now: float = 0.0


@dataclass
class _Cost:
    """The logarithm of the seconds that passes with a number of rows take at the first pace, from so many passes."""

    mean: float
    count: int
    newest: int  # the number of the last of these passes


class PassCosts:
    """Seconds that a decoder's passes take by their rows: a line through what each number of rows takes, and where one
    was tried, what it takes itself the more the more often.

    A pass that takes longer than others with as many rows tells mostly that the machine is slower now (`pace`, which
    decoders of one machine share), and a little that such a pass takes longer than was thought.

    Where weights come from disk (`streamed`), rows are computed while these are read and hardly cost anything. Passes vary
    more with the disk than by their rows, so that it takes many of different lengths to believe that these tell.
    """

    def __init__(self, pace: Pace | None = None, streamed: bool = False) -> None:
        self._costs: dict[int, _Cost] = {}
        self._passes = 0
        self._pace = pace or Pace()
        self._streamed = streamed
        self.prompt_token = math.inf  # seconds for each token of a prompt, at best

    def add(self, rows: int, seconds: float) -> None:
        self._passes += 1
        taken, cost = math.log(max(seconds, 1e-9)), self._costs.get(rows)
        if cost is None or (rows > 1 and cost.newest <= self._passes - REMEMBERED):
            self._costs[rows] = _Cost(taken - self._pace.now, 1, self._passes)
            return
        taken = min(max(taken, cost.mean + self._pace.now - SURPRISE), cost.mean + self._pace.now + SURPRISE)
        if cost.count >= KNOWN:
            self._pace.now += PACE * (taken - self._pace.now - cost.mean)
        cost.mean += (taken - self._pace.now - cost.mean) / min(cost.count + 1, STEADY)
        cost.count, cost.newest = cost.count + 1, self._passes

    def add_prompt(self, tokens: int, seconds: float) -> None:
        self.prompt_token = min(self.prompt_token, seconds / tokens)

    @property
    def known(self) -> bool:
        return bool(self._costs)

    def of(self, rows: int) -> float:
        """Seconds of a pass over so many rows at the pace of now; 1 before there was any."""
        known = {
            count: (math.exp(cost.mean + self._pace.now), min(cost.count, RECENT))
            for count, cost in self._costs.items()
            if count == 1 or cost.newest > self._passes - REMEMBERED
        }
        if not known:
            return 1.0
        if self._streamed:
            return _line(known, rows, (LIKELY_ROWS, 1.0, RECENT))
        taken, count = known.get(rows, (0.0, 0))
        likely = (LIKELY_ROWS, 1 + LIKELY_ROWS * SLOPE, 1) if len(known) < 3 else None
        return (_line(known, rows, likely) + count * taken) / (1 + count)


def _line(known: dict[int, tuple[float, int]], rows: int, likely: tuple[int, float, int] | None) -> float:
    """The line through the seconds of numbers of rows, each as heavy as it has passes, and through what is likely: for so
    many rows more, so many times the seconds, as heavy as so many passes."""
    points = [(count, seconds, heavy) for count, (seconds, heavy) in known.items()]
    if likely:
        (first, least, _heavy), (more, times, heavy) = min(points), likely
        points.append((first + more, least * times, heavy))
    weight = sum(heavy for _count, _seconds, heavy in points)
    middle = sum(heavy * count for count, _seconds, heavy in points) / weight
    mean = sum(heavy * seconds for _count, seconds, heavy in points) / weight
    spread = sum(heavy * (count - middle) ** 2 for count, _seconds, heavy in points)
    slope = sum(heavy * (count - middle) * (seconds - mean) for count, seconds, heavy in points) / spread
    return mean + max(0.0, slope) * (rows - middle)


class Odds:
    """How often a drafter's choices are right: of late, and by the probability that it gave to each.

    A drafter that is like the decoder is right more often than it is sure: both choose alike, also where they hesitate. How
    much of what it is not sure of is right nevertheless (`_alike`) is learnt from all choices, which few of one sureness then
    correct.
    """

    def __init__(self) -> None:
        self._right, self._judged = [0.0] * (len(SURENESS) + 1), [0] * (len(SURENESS) + 1)
        self._beyond, self._unsure = 0.0, 0.0  # right beyond what was sure, and what was not sure, of late
        self._late = [PRIOR * PRIOR_WEIGHT, PRIOR_WEIGHT]  # right, judged

    def judge(self, sureness: float, right: bool) -> None:
        """A choice to which the drafter gave the probability `sureness` was right, or was not."""
        place = bisect_right(SURENESS, sureness)
        self._right[place] += right
        self._judged[place] += 1
        self._beyond = FADING * self._beyond + right - sureness
        self._unsure = FADING * self._unsure + 1 - sureness
        self._late = [FADING * self._late[0] + right, FADING * self._late[1] + 1]

    def of(self, sureness: float) -> float:
        """The probability that such a choice is right."""
        place = bisect_right(SURENESS, sureness)
        likely = sureness + self._alike * (1 - sureness)
        return (self._right[place] + PRIOR_WEIGHT * likely) / (self._judged[place] + PRIOR_WEIGHT)

    @property
    def _alike(self) -> float:
        return min(1.0, max(0.0, (self._beyond + ALIKE * ALIKE_WEIGHT) / (self._unsure + ALIKE_WEIGHT)))

    @property
    def late(self) -> float:
        """The probability that a choice is right of which nothing is known."""
        return min(self._late[0] / self._late[1], 0.999)


class Payoff:
    """A decoder and its drafter: `passes` and `drafts` are what their passes take. `likely_share` of a pass of the
    decoder is what one of the drafter takes, as long as none was made. The decoder's weights are read from disk where it is
    `streamed`; its pace is the disk's then, and not the drafter's.

    `sequences` decode in one pass; each drafts by itself.
    """

    def __init__(self, likely_share: float, streamed: bool = False):
        pace = Pace()
        self.passes, self.odds = PassCosts(pace, streamed), Odds()
        self.drafts = PassCosts() if streamed else PassCosts(pace)
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
        likely = self._likely_share * self.passes.prompt_token
        per_token = self.drafts.prompt_token if math.isfinite(self.drafts.prompt_token) else likely
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
        return self.drafts.of(1) if self.drafts.known else self._likely_share * self._pass_seconds(1)
