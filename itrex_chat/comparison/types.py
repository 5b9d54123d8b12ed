"""What a comparison says: the types that reports, the gate and `comparison.json` take."""

import dataclasses
from dataclasses import dataclass
from typing import Any

from itrex_chat.comparison.drafted import Drafted
from itrex_chat.comparison.machines import OF_A_MACHINE
from itrex_chat.jobs.answer import Answer
from itrex_chat.quality.record import ModelQuality
from itrex_chat.ratings.judgements import Judged
from itrex_chat.ratings.pairs import Pair
from itrex_chat.ratings.summary import Rated
from itrex_chat.ratings.votes import Voted

SCHEMA_VERSION = 4

FLOATS = ("GGUF F32", "GGUF F16", "GGUF BF16")


@dataclass(frozen=True)
class AnswerPair:
    """One question, answered by a variant and by the baseline (None where one has not answered)."""

    id: str
    question: str
    category: str
    expected: str
    baseline: Answer | None
    answer: Answer | None
    equal_tokens: int | None  # the index of the first divergent token
    identical: bool | None
    chrf: float | None
    bleu: float | None


@dataclass(frozen=True)
class Batch:
    """Answers that were made together: how many, how many at a time at `most`, their tokens and the seconds for all."""

    answers: int
    most: int
    tokens: int
    seconds: float


@dataclass(frozen=True)
class Figures:
    """One variant's figures over the questions that it and the baseline answered; seconds and bytes."""

    variant: str
    state: str
    reason: str
    answers: int
    ttft: float | None  # median
    tpot: float | None  # median
    tokens_per_second: float | None  # of the median tpot; both without another model's drafts
    prefill_tokens_per_second: float | None  # median
    new_tokens: int
    accepted_share: float | None  # of the new tokens, those that were guessed
    seconds: float | None  # of all answers; None where some were made together
    load_seconds: float | None
    build_seconds: float | None  # quantizing, when that was done
    peak_memory: int | None
    disk_bytes: int | None
    weight_bytes: int | None
    read_rate: float | None  # bytes of weights read in a second of decoding, where each token is a pass
    storage: str | None  # the 16 bits that matrices of FP32 are kept in
    wide_bytes: int | None  # what a token would read if they were kept in 32
    mapped_bytes: int | None  # of weights read where they lie in files, a part of the peak memory
    bits_per_weight: float | None
    kernel: str
    cache_format: str | None = None  # of keys and values
    cache_bytes: int | None = None  # that those of a token take
    engine: dict[str, Any] | None = None  # another engine's record: versions, its log, how its integers compare
    contention: float | None = None  # median share of the time that threads waited for a core which something else had
    identical: int | None = None  # answers equal to the baseline's
    equal_tokens: float | None = None  # median
    chrf: float | None = None  # mean
    bleu: float | None = None  # mean
    stopped: int = 0  # answers that the model ended itself
    repetition: float | None = None  # mean share of repeated runs of tokens
    languages: dict[str, int] = dataclasses.field(default_factory=dict)  # answers in each language
    expected: int = 0  # answers to questions that say what is expected
    matching: int = 0  # those of them that are just that
    containing: int = 0  # those that have it in them
    drafted: Drafted | None = None  # what another model's drafts of its answers say
    batch: Batch | None = None  # the answers that were made together, whose times count in no other figure
    machine: str | None = None  # that the times are of, where the model's answers are of several
    algorithm: str | None = None  # that found the integers of 4 bits, where this program quantized
    budget: float | None = None  # bits per weight of the blocks that the recipe allowed, where it did
    matrices: dict[str, int] | None = None  # with a budget, how many are of which precision
    timed: int | None = None  # the answers that the times are of, where the variant's are of several machines


@dataclass(frozen=True)
class ModelComparison:
    """One model: its variants' figures, the most precise first, and the answers of each beside the baseline's."""

    model: str
    baseline: str
    stored: str  # how the weights were stored before
    origin: dict[str, Any]
    question_set: str
    figures: list[Figures]
    pairs: dict[str, list[AnswerPair]]
    quality: ModelQuality | None = None  # teacher-forced figures, where they were measured
    ratings: dict[str, list[Rated]] = dataclasses.field(default_factory=dict)  # by people, for each variant
    judged: dict[str, list[Judged]] = dataclasses.field(default_factory=dict)  # by other models, for each variant
    machines: dict[str, str] = dataclasses.field(default_factory=dict)  # their processors, where there are several

    @property
    def weights_were_quantized(self) -> bool:
        """Whether the "full precision" weights are dequantized ones, which makes INT4 look better than it is."""
        return self.integers_were_taken or (self.stored.startswith("GGUF") and self.stored not in FLOATS)

    @property
    def integers_were_taken(self) -> bool:
        """Whether the weights are those of a checkpoint of integers, which an INT4 variant of it takes as they are."""
        return not self.stored.startswith("GGUF") and " INT" in self.stored

    def on_one_machine(self, figures: Figures) -> bool:
        """Whether a variant's times and the baseline's are of the same machine."""
        return figures.machine == self.figures[0].machine

    def agreement(self, variant: str) -> Drafted | None:
        """How often the baseline would have chosen the next token of a variant that drafted its answers."""
        found = self.figures[0].drafted
        return found if found and found.by == variant and found.share else None

    def ratio(self, figures: Figures, field: str) -> float | None:
        """A figure divided by the baseline's; none of times that another model's drafts have made shorter, nor of the
        memory of answers that were made together, nor of times and memory of different machines."""
        both = (figures, self.figures[0])
        if field in OF_A_MACHINE and not self.on_one_machine(figures):
            return None
        if field in ("peak_memory", "seconds") and any(each.timed is not None for each in both):
            return None
        if field == "seconds" and any(each.drafted for each in both):
            return None
        if field == "peak_memory" and len({each.batch.most if each.batch else 1 for each in both}) > 1:
            return None
        value, base = getattr(figures, field), getattr(self.figures[0], field)
        return value / base if value and base and figures.variant != self.baseline else None


@dataclass(frozen=True)
class Comparison:
    """All models of the runs compared."""

    runs: list[str]
    machine: dict[str, Any]
    generation: dict[str, Any]
    models: list[ModelComparison]
    absent: list[str]  # models of the runs without any answer
    commands: list[str]  # that make these runs again
    votes: list[Voted] = dataclasses.field(default_factory=list)  # by people, for each two that they saw together

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {"schema": SCHEMA_VERSION, **dataclasses.asdict(self)}

    def differing(self) -> list[Pair]:
        """The answers that are not equal to the baseline's, for people or a judge to rate."""
        return [
            Pair(
                model.model,
                pair.id,
                pair.question,
                pair.expected,
                model.baseline,
                variant,
                pair.baseline.text,
                pair.answer.text,
            )
            for model in self.models
            for variant, pairs in model.pairs.items()
            for pair in pairs
            if pair.baseline and pair.answer and not pair.identical
        ]
