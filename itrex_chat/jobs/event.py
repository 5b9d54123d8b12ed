"""Events: what a worker tells while it does a job, and the facts they carry."""

from dataclasses import dataclass, field
from typing import Literal

from itrex_chat.jobs.answer import Answer


@dataclass(frozen=True)
class DrafterFacts:
    """The model that drafts for a variant: `name` is a variant's ("int4") for one of the same model. Seconds that loading
    it took, bytes of memory and of the weights that a token of it reads; or `why` it does not."""

    name: str
    seconds: float = 0.0
    memory: int = 0
    weight_bytes: int = 0
    why: str = ""


@dataclass(frozen=True)
class OriginalFiles:
    """Which files a variant is of, of `sources.Source`: the digest of their contents, where it is known without reading
    them, and the stamp of their sizes, inodes and times, where the originals were looked at."""

    digest: str | None = None
    stamp: str | None = None


@dataclass(frozen=True)
class Facts:
    """What is known of a variant once it is loaded.

    Seconds it took, and bytes: `memory` of the process then, `disk_bytes` of its files, `weight_bytes` that one decoded
    token reads, `mapped_bytes` of weights that are read where they lie in files: their pages are in `memory`, too, while
    the system leaves them. `kernel` multiplies, `why` not a faster one. `stored` is how the original weights are stored,
    `origin` where they came from, `files` which they were. `engine` is what another engine than this program's has to tell. Where matrices are
    computed in FP32 and kept in 16 bits, `storage` says in which ("bfloat16"), and `wide_bytes` what a token would read in
    32 bits. `streamed_bytes` of them are read from disk for each pass, at `stream_rate` bytes per second when it was
    loaded. `cache_format` is how keys and values are kept, `cache_bytes` what those of a token take. `drafter` guesses its tokens.
    """

    seconds: float
    memory: int
    threads: int
    kernel: str
    why: str
    compute_dtype: str
    disk_bytes: int
    weight_bytes: int
    stored: str
    origin: dict
    engine: dict | None = None
    storage: str | None = None
    wide_bytes: int | None = None
    mapped_bytes: int | None = None
    streamed_bytes: int | None = None
    stream_rate: float | None = None
    drafter: DrafterFacts | None = None
    files: OriginalFiles = OriginalFiles()
    cache_format: str | None = None
    cache_bytes: int | None = None


@dataclass(frozen=True)
class Pace:
    """What passes take where weights are read from disk for each: seconds of one over a few tokens, and those that
    computing takes for each token of a prompt, which counts where it is more. `draft`: of a token that another model drafts."""

    each: float
    token: float
    draft: float = 0.0

    def prompt(self, tokens: int) -> float:
        """Seconds of a pass over so many tokens of a prompt."""
        return max(self.each, tokens * self.token)


@dataclass(frozen=True)
class ArtifactFacts:
    """An artifact in the cache: `statistics` are those of its manifest (`quantization/statistics.py`)."""

    folder: str
    bytes: int
    statistics: dict


@dataclass(frozen=True, kw_only=True)
class _Event:
    """`job` is the id of the job that it is of."""

    job: str


@dataclass(frozen=True, kw_only=True)
class Prepared(_Event):
    """`needs`: bytes of memory by variant, also of variants that nobody asked for, so that one can say what would fit.
    `problems`: why a variant cannot be had, `left_out`: why one that nobody named is not. `trusted`: artifacts whose
    digests are checked now. `files`: those of the model as they are now. `streamed`: variants whose weights are read from
    disk for each pass; `batches`: how many questions each answers at a time."""

    needs: dict[str, int]
    languages: tuple[str, ...]
    problems: dict[str, str]
    artifacts: dict[str, ArtifactFacts]
    trusted: dict[str, str] = field(default_factory=dict)
    files: OriginalFiles = OriginalFiles()
    left_out: dict[str, str] = field(default_factory=dict)
    streamed: tuple[str, ...] = ()
    batches: dict[str, int] = field(default_factory=dict)
    event: Literal["prepared"] = "prepared"


@dataclass(frozen=True, kw_only=True)
class Planned(_Event):
    """A Prepared for scoring. `texts`: the tokens of each text. `pieces`: the text of each token of each answer.
    `reference`, `variants`: keys of the store (`quality/store.py`)."""

    needs: dict[str, int]
    problems: dict[str, str]
    artifacts: dict[str, ArtifactFacts]
    texts: tuple[tuple[int, ...], ...]
    pieces: tuple[tuple[str, ...], ...]
    vocabulary: int
    layers: int
    kernel: str
    reference: str
    variants: dict[str, str]
    trusted: dict[str, str] = field(default_factory=dict)
    event: Literal["planned"] = "planned"


@dataclass(frozen=True, kw_only=True)
class Loaded(_Event):
    """`pace` where weights are read from disk for each pass; `prompts`: the tokens of each question's prompt, as far as
    they can be told. `machine`: that of the worker, `machine.description()`."""

    facts: Facts
    pace: Pace | None = None
    prompts: tuple[int, ...] = ()
    trusted: dict[str, str] = field(default_factory=dict)
    machine: dict = field(default_factory=dict)
    event: Literal["loaded"] = "loaded"


@dataclass(frozen=True, kw_only=True)
class Text(_Event):
    """A piece of the answer to a question."""

    question: str
    text: str
    event: Literal["text"] = "text"


@dataclass(frozen=True, kw_only=True)
class Answered(_Event):
    answer: Answer
    event: Literal["answered"] = "answered"


@dataclass(frozen=True, kw_only=True)
class Scored(_Event):
    """The results of a passage are in the store."""

    passage: str
    event: Literal["scored"] = "scored"


@dataclass(frozen=True, kw_only=True)
class LayerScored(_Event):
    number: int
    event: Literal["layer_scored"] = "layer_scored"


@dataclass(frozen=True, kw_only=True)
class Done(_Event):
    """The end of a job that loaded something; bytes."""

    peak_memory: int
    event: Literal["done"] = "done"


@dataclass(frozen=True, kw_only=True)
class Failed(_Event):
    """The end of a job that failed, in a sentence. `shortage`: because memory is not left."""

    message: str
    shortage: bool = False
    event: Literal["failed"] = "failed"


Event = Prepared | Planned | Loaded | Text | Answered | Scored | LayerScored | Done | Failed
