"""What `run.json` holds, as types.

`Run` is the whole file. What another version of this program has written besides is kept as it is and written again;
a field that is None by default is left out of the file while it is.
"""

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Literal, TypeVar

from itrex_chat.foundation import stored
from itrex_chat.settings.questions import Question, QuestionSet

FORMAT_VERSION: Final = 1
T = TypeVar("T")
P = TypeVar("P", bound="Part")


class Part:
    """A part of the file: checked where it is read, and plain values again where it is written."""

    __pydantic_config__ = {"extra": "allow"}

    @classmethod
    def of(cls: type[P], values: "Mapping[str, Any] | P") -> P:
        """The part that plain values describe. Raises ValueError where one is missing or of another type."""
        return checked(cls, values)

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        left_out = {f.name for f in dataclasses.fields(self) if f.default is None}  # type: ignore[arg-type]  # each Part is a dataclass
        return {name: plain(value) for name, value in vars(self).items() if value is not None or name not in left_out}


@dataclass(frozen=True)
class SpecModel(Part):
    """A model to ask: its name in the run, and `Recipe.as_dict()`."""

    label: str
    recipe: dict[str, Any]


@dataclass(frozen=True)
class Spec(Part):
    """What a run asks of whom; runs of one spec are one run.

    `variants` None are FP32 and what each recipe quantizes to, `questions` None the set that fits a model's languages,
    `engines` None this program's own, `shard` ("2/8") None where the run is whole.
    """

    models: list[SpecModel]
    variants: list[str] | None
    questions: QuestionSet | None
    engines: list[str] | None = None
    own_template: bool | None = None
    shard: str | None = None

    @property
    def digest(self) -> str:
        """What tells two runs apart."""
        return hashlib.sha256(json.dumps(plain(self), sort_keys=True, ensure_ascii=False).encode()).hexdigest()

    def recipe(self, label: str) -> dict[str, Any] | None:
        """The recipe of a model of the run; None for one that is not in it."""
        return next((model.recipe for model in self.models if model.label == label), None)


@dataclass(frozen=True)
class Drafter(Part):
    """The model that drafts for a variant: seconds to load it, bytes of memory and of weights, or `why` it does not."""

    name: str
    seconds: float
    memory: int
    weight_bytes: int
    why: str


@dataclass(frozen=True)
class OriginalFiles(Part):
    """Which files a variant was of: the digest of their contents where it was known, the stamp of sizes, inodes and times."""

    digest: str | None = None
    stamp: str | None = None


@dataclass(frozen=True)
class Load(Part):
    """A variant as it was loaded: seconds, bytes of memory, on disk and of weights.

    `why` says which faster kernels cannot run, `stored` how the weights were stored before, `origin` where they came
    from, `files` which they were; `engine` is what another engine tells of itself. `storage` are the 16 bits that FP32 keeps its matrices in,
    `wide_bytes` what they would be in 32, `mapped_bytes` those of weights in the model's own files, `streamed_bytes` those that each pass reads
    from disk, at `stream_rate` bytes per second when it was loaded. `cache_format` is how keys and values are kept, `cache_bytes` what those of a token take. `drafter` guesses its
    tokens. An online model has a `kernel` alone, its name.
    """

    kernel: str
    seconds: float | None = None
    memory: int | None = None
    threads: int | None = None
    why: str | None = None
    compute_dtype: str | None = None
    disk_bytes: int | None = None
    weight_bytes: int | None = None
    stored: str | None = None
    origin: dict[str, Any] | None = None
    cache_format: str | None = None
    cache_bytes: int | None = None
    engine: dict[str, Any] | None = None
    storage: str | None = None
    wide_bytes: int | None = None
    mapped_bytes: int | None = None
    streamed_bytes: int | None = None
    stream_rate: float | None = None
    drafter: Drafter | None = None
    files: OriginalFiles | None = None


@dataclass(frozen=True)
class VariantRun(Part):
    """How far a variant is: `state` is "waiting", "asking", "done", "skipped" or "failed", the last two for a
    `reason`. `peak_memory` in bytes."""

    state: str
    reason: str | None = None
    load: Load | None = None
    peak_memory: int | None = None


@dataclass(frozen=True)
class BuildStatistics(Part):
    """Of a quantization: how many weights it had, the bytes that they take now, the seconds that it took, and how many
    matrices are of which precision."""

    weights: int
    bytes_after: int
    seconds: float
    linear: dict[str, int] | None = None


@dataclass(frozen=True)
class BuiltArtifact(Part):
    """The artifact that a variant was loaded from, and its bytes on disk."""

    folder: str
    bytes: int
    statistics: BuildStatistics


@dataclass(frozen=True)
class Machine(Part):
    """What reports say of the machine that a run was on, of `machine.description()`; the record may hold more."""

    cpu: str
    cores: int | None
    memory: int
    itrex_chat: str
    packages: dict[str, str | None]
    instructions: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Generation(Part):
    """How the answers were generated: the fields of `GenerationConfig`."""

    max_new_tokens: int
    do_sample: bool


@dataclass
class ModelRun(Part):
    """One model of a run: its variants by name, and from when it was prepared on, the questions that it is asked.

    `system` is the question set's system message, `artifacts` are by variant, `needs` the bytes of memory of each variant that there could be.
    """

    variants: dict[str, VariantRun] = field(default_factory=dict)
    question_set: str | None = None
    system: str | None = None
    questions: list[Question] | None = None
    languages: list[str] | None = None
    artifacts: dict[str, BuiltArtifact] | None = None
    generation: Generation | None = None
    needs: dict[str, int] | None = None

    def update(self, facts: Mapping[str, Any]) -> None:
        """Set facts by their names. Raises ValueError for one of another type."""
        vars(self).update(vars(ModelRun.of(self.as_dict() | dict(facts))))


@dataclass
class Run(Part):
    """The whole file. `machine` is `machine.description()`; `commands` make the same run again. `machines` are others that
    answers were made on, by what `Answer.machine` calls them."""

    format: Literal[1]
    digest: str
    spec: Spec
    created: str
    machine: dict[str, Any]
    complete: bool
    models: dict[str, ModelRun]
    commands: list[str] | None = None
    machines: dict[str, dict[str, Any]] | None = None


def checked(kind: type[T], values: Any) -> T:
    """What plain values, as JSON has them, or parts describe. Raises ValueError where one is missing or of another type."""
    return stored.checked(kind, plain(values))


def plain(value: Any) -> Any:
    """Parts and other dataclasses as the dicts, and tuples as the lists, that JSON has."""
    if isinstance(value, Part):
        return value.as_dict()
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        value = vars(value)
    if isinstance(value, Mapping):
        return {key: plain(each) for key, each in value.items()}
    return [plain(each) for each in value] if isinstance(value, (list, tuple)) else value
