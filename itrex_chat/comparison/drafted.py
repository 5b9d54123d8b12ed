"""What drafts say: how often the model that drafted would have gone on as the one that it drafted for, and the speed."""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

import numpy as np

from itrex_chat.jobs.answer import Answer
from itrex_chat.quality import intervals
from itrex_chat.quality.intervals import Estimate, Sample


@dataclass(frozen=True)
class Drafted:
    """Answers that the model `by` drafted, a variant's name where it is one of the same model.

    `tokens_per_second` as they came; `share` of `places` in them at which the variant whose answers they are would have
    chosen the drafter's next token, too (None where there is no such place).
    """

    by: str
    tokens_per_second: float | None  # of the median tpot
    share: Estimate | None
    places: int


def drafted(answers: Sequence[Answer]) -> Drafted | None:
    """What the model said that drafted them, the last one where there were several; answers are what counts as
    independent. None where none drafted or only one that never had its turn, because it was not worth it."""
    by = next((a.drafts.by for a in reversed(answers) if a.drafts and (a.drafts.places or a.drafted_tokens)), None)
    if by is None:
        return None
    known = [(answer, answer.drafts) for answer in answers if answer.drafts and answer.drafts.by == by]
    rates = [answer.tpot for answer, _drafts in known if answer.tpot and not answer.batch]
    read = [drafts for _answer, drafts in known if drafts.places]
    agreed = [np.repeat([1.0, 0.0], [drafts.agreed, drafts.places - drafts.agreed]) for drafts in read]
    answer_of = np.repeat(np.arange(len(read)), [drafts.places for drafts in read])
    share = intervals.share(Sample(np.concatenate(agreed), answer_of)) if read else None
    return Drafted(by, 1 / median(rates) if rates else None, share, len(answer_of))
