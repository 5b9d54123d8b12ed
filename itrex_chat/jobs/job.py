"""Jobs: each has all that a worker needs, wherever it runs, and says which events it gives, in this order."""

import secrets
from dataclasses import dataclass, field
from typing import Literal

from itrex_chat.jobs.passage import Passage
from itrex_chat.settings.engine_options import EngineOptions
from itrex_chat.settings.generation import GenerationConfig
from itrex_chat.settings.questions import Question
from itrex_chat.settings.recipe import Recipe


@dataclass(frozen=True, kw_only=True)
class _Job:
    """What all jobs have. `id` tells its events from another job's. `trusted` are the artifacts whose digests were
    checked in this run (folder to `Artifact.stamp`): they are not read again for that."""

    recipe: Recipe
    options: EngineOptions = EngineOptions()
    id: str = field(default_factory=lambda: secrets.token_hex(6))
    trusted: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Prepare(_Job):
    """Have everything on disk that the variants need. Events: Prepared.

    `tokens`: the most that prompt and answer have in all, for planning memory, and `batch` how many are answered at a time,
    None for what suits each variant. `named`: whether somebody asked for just
    these variants; of others, large originals are not downloaded where an artifact is at hand.
    """

    variants: tuple[str, ...]
    tokens: int
    batch: int | None = 1
    named: bool = True
    task: Literal["prepare"] = "prepare"


MOST_TOGETHER = 16  # answers of a pass that are each what they are alone, whatever the engine


@dataclass(frozen=True, kw_only=True)
class Ask(_Job):
    """Load a variant and answer questions, each for itself, up to `batch` of them at a time. Events: Loaded, then for each
    question Text as it comes and Answered, and Done; with a batch those of several questions are mixed.

    `label` is the model's name in the run. `needs` is the memory of each variant in bytes, as it was planned: where the
    variant's is not left, the job fails with the numbers and what would fit. Empty, nothing is checked.
    """

    label: str
    variant: str
    questions: tuple[Question, ...]
    system: str = ""
    generation: GenerationConfig = GenerationConfig()
    needs: dict[str, int] = field(default_factory=dict)
    batch: int = 1
    task: Literal["ask"] = "ask"


@dataclass(frozen=True, kw_only=True)
class PlanScoring(_Job):
    """As Prepare, and besides: the text of each token of the `answers`, the tokens of the `texts` (files), and where
    each variant's results belong. Events: Planned.

    `cache_format`: how the variants keep keys and values that are compared, if not as the recipe says.
    """

    baseline: str
    variants: tuple[str, ...]
    answers: tuple[tuple[int, ...], ...]
    texts: tuple[str, ...]
    tokens: int
    cache_format: str | None = None
    task: Literal["plan_scoring"] = "plan_scoring"


@dataclass(frozen=True, kw_only=True)
class Score(_Job):
    """Load a variant and go through passages: keep its distributions under the key `reference`, or, where `scores` is a
    key, compare them with what is there. Events: Loaded, Scored for each passage, Done.

    `needed` bytes of memory must be left.
    """

    variant: str
    passages: tuple[Passage, ...]
    reference: str
    scores: str | None = None
    needed: int = 0
    task: Literal["score"] = "score"


@dataclass(frozen=True, kw_only=True)
class ScoreLayers(_Job):
    """Score the baseline with one decoder block at a time in the variant's weights. Events: Loaded, LayerScored for each, Done.

    `scores` has a key for each block's number, and for the head under the number of blocks.
    """

    baseline: str
    variant: str
    passages: tuple[Passage, ...]
    reference: str
    scores: dict[int, str]
    needed: int = 0
    task: Literal["score_layers"] = "score_layers"


Job = Prepare | Ask | PlanScoring | Score | ScoreLayers
