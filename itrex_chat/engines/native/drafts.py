"""Which model drafts for a session, and having it in memory beside the session's own.

The drafter never decides whether a variant answers: where it cannot be had, the variant answers without it.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

from itrex_chat.artifacts.artifact import Artifact
from itrex_chat.artifacts.obtaining import at_hand, verified
from itrex_chat.chat import ChatTokenizer, load_tokenizer
from itrex_chat.chat.sameness import same_tokens
from itrex_chat.decoder.model import Decoder
from itrex_chat.engines.memory import Memory
from itrex_chat.engines.native.memory import PROGRAM
from itrex_chat.engines.native.weights import load_quantized
from itrex_chat.engines.on_disk import OnDisk
from itrex_chat.foundation import machine
from itrex_chat.foundation.errors import ItrexChatError, RecipeError
from itrex_chat.foundation.language import _
from itrex_chat.foundation.units import readable
from itrex_chat.generation.model_drafts import DraftModel
from itrex_chat.generation.prefill import PREFILL_STEP
from itrex_chat.jobs.event import DrafterFacts
from itrex_chat.kernels import choose
from itrex_chat.kernels.native import Native
from itrex_chat.settings import recipe as recipes
from itrex_chat.settings.generation import AUTO, NO_DRAFTS, GenerationConfig
from itrex_chat.settings.recipe import Recipe
from itrex_chat.settings.variant import BITS, Variant


@dataclass(frozen=True)
class Choice:
    """A quantized model that drafts: `name` is a variant's for one of the same model. `asked`: somebody named it, so that
    it is fetched and quantized if it is not there."""

    name: str
    recipe: Recipe
    asked: bool

    @property
    def variant(self) -> Variant:
        return Variant.of(self.recipe.quantization)

    @property
    def other_model(self) -> bool:
        return self.name != str(self.variant)


def choice(recipe: Recipe, variant: Variant, draft: str) -> Choice | None:
    """What a setting of `draft` means for a variant; None where nothing drafts. Raises RecipeError for no such model."""
    if draft == NO_DRAFTS or (draft == AUTO and variant.bits):
        return None
    name = "int4" if draft == AUTO else draft
    if name in BITS:
        if variant.bits and variant.bits <= BITS[name]:
            return None
        return Choice(name, Variant(name).applied_to(recipe), draft != AUTO)
    other = recipes.load(name)
    return Choice(f"{other.name} {Variant.of(other.quantization).title}", other, True)


def have_on_disk(recipe: Recipe, variant: Variant, trusted: dict[str, str] | None) -> None:
    """Fetch and quantize the drafter that a recipe names, if it names one. Raises ItrexChatError."""
    found = choice(recipe, variant, recipe.generation.draft)
    if found and found.asked and choose().name == Native.name:
        verified(found.recipe, trusted=trusted)


def size(
    recipe: Recipe,
    variant: Variant,
    home: Path | None,
    memory: Callable[[OnDisk, Recipe, Variant, int], Memory],
    batch: int,
) -> int:
    """Bytes that the drafter of a variant takes beside it for `batch` answers at a time, where there is one; 0 where it is
    not on disk."""
    config = recipe.generation
    found = None if config.prompt_lookup else choice(recipe, variant, config.draft)
    artifact = at_hand(found.recipe, home) if found else None
    if found is None or artifact is None:
        return 0
    on_disk = OnDisk(artifact=artifact)
    assert on_disk.decoder
    tokens = batch * min(PREFILL_STEP + config.max_new_tokens, on_disk.decoder.context_length)
    return memory(on_disk, found.recipe, found.variant, tokens).total - PROGRAM


@dataclass
class Drafting:
    """The drafters of a session of `variant`, loaded when they are first asked for. `memory` plans as the engine does,
    `left` says how many bytes the variant leaves where an answer and its prompt have so many tokens."""

    recipe: Recipe
    variant: Variant
    decoder: Decoder
    tokenizer: ChatTokenizer
    memory: Callable[[OnDisk, Recipe, Variant, int], Memory]
    left: Callable[[int], int]
    home: Path | None
    trusted: dict[str, str]
    facts: DrafterFacts | None = None  # of the newest
    _loaded: dict[str, DraftModel | None] = field(default_factory=dict)
    _peak_before: int = 0

    def model(self, config: GenerationConfig, batch: int = 1) -> DraftModel | None:
        """What drafts for answers with these settings, `batch` of them at a time, if anything does. Raises ItrexChatError
        for one that was named and cannot be had."""
        if config.prompt_lookup or self.decoder.independent_tokens == 1:
            return None
        if config.draft not in self._loaded:
            found = choice(self.recipe, self.variant, config.draft)
            self._loaded[config.draft] = self._had(found, config, batch) if found else None
        return self._loaded[config.draft]

    def peak_memory(self) -> int:
        """The most memory that the process has had, without what drafters take."""
        peak = machine.peak_memory()
        return max(self._peak_before, peak - (self.facts.memory if self.facts else 0))

    def _had(self, found: Choice, config: GenerationConfig, batch: int) -> DraftModel | None:
        try:
            return self._load(found, config, batch)
        except ItrexChatError as error:
            if found.asked:
                raise
            self.facts = DrafterFacts(name=found.name, why=str(error))
            return None

    def _load(self, found: Choice, config: GenerationConfig, batch: int) -> DraftModel | None:
        artifact = self._artifact(found)
        if artifact is None:
            return None
        if found.other_model:
            self._check_tokens(found, artifact)
        tokens = batch * min(PREFILL_STEP + config.max_new_tokens, self.decoder.config.context_length)
        size = self.memory(OnDisk(artifact=artifact), found.recipe, found.variant, tokens).total - PROGRAM
        if size > (left := self.left(tokens)):
            self.facts = DrafterFacts(
                name=found.name,
                why=_(
                    "it needs {needed} of memory, but {left} is left",
                    needed=readable(size),
                    left=readable(max(0, left)),
                ),
            )
            return None
        self._peak_before, began = machine.peak_memory(), time.perf_counter()
        decoder = replace(
            load_quantized(artifact, choose(), found.recipe.quantization.compute_dtype),
            cache_format=found.variant.cache_format(found.recipe),
        )
        self.facts = DrafterFacts(
            name=found.name,
            seconds=time.perf_counter() - began,
            memory=decoder.weight_bytes() + decoder.embedding.nbytes + tokens * decoder.cache_bytes(),
            weight_bytes=decoder.weight_bytes(),
        )
        return DraftModel.beside(found.name, decoder, self.decoder)

    def _artifact(self, found: Choice) -> Artifact | None:
        """The drafter's artifact with its digests checked; one that nobody named has to be there, and whole."""
        if found.asked:
            return verified(found.recipe, self.home, self.trusted)
        artifact = at_hand(found.recipe, self.home)
        if artifact and self.trusted.get(str(artifact.folder)) != (stamp := artifact.stamp()):
            artifact.verify()
            self.trusted[str(artifact.folder)] = stamp
        return artifact

    def _check_tokens(self, found: Choice, artifact: Artifact) -> None:
        other = load_tokenizer(artifact.folder, artifact.family, found.recipe.chat)
        if not same_tokens(self.tokenizer, other, self.decoder.config.vocab_size):
            raise RecipeError(
                _(
                    "{drafter} cannot draft for {model}: it has another vocabulary. Choose a model of the same family, or "
                    "--set generation.draft none.",
                    drafter=found.name,
                    model=self.recipe.name,
                )
            )
