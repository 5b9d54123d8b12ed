"""Having everything on disk that the variants of a model need, and knowing what memory each will take."""

from dataclasses import dataclass, field

from itrex_chat import sources
from itrex_chat.artifacts.pushed import is_pushed
from itrex_chat.chat import spoken_languages
from itrex_chat.engines import EngineOptions, engine_of
from itrex_chat.engines.memory import left
from itrex_chat.engines.on_disk import OnDisk
from itrex_chat.foundation import machine
from itrex_chat.foundation.errors import ItrexChatError, RunError
from itrex_chat.foundation.language import _
from itrex_chat.foundation.places import cache_home
from itrex_chat.foundation.units import readable
from itrex_chat.jobs.event import ArtifactFacts, OriginalFiles
from itrex_chat.jobs.job import MOST_TOGETHER
from itrex_chat.settings.recipe import Recipe
from itrex_chat.settings.variant import DENSE, Variant
from itrex_chat.sources.pushed import refusal

LARGEST_UNASKED = 10**9  # bytes of originals that are downloaded for a variant that nobody named


@dataclass
class Preparation:
    """By variant: `on_disk`, `needs` in bytes of memory (of others, too, for advice), `problems` of those that cannot
    be had, `left_out` of those that nobody named, those that are `streamed`, whose weights do not fit into the memory that
    is left, `batches`, the questions that are answered at a time, `artifacts`. `trusted`: the artifacts that were verified."""

    recipe: Recipe

    on_disk: dict[str, OnDisk] = field(default_factory=dict)
    needs: dict[str, int] = field(default_factory=dict)
    problems: dict[str, str] = field(default_factory=dict)
    left_out: dict[str, str] = field(default_factory=dict)
    streamed: list[str] = field(default_factory=list)
    batches: dict[str, int] = field(default_factory=dict)
    artifacts: dict[str, ArtifactFacts] = field(default_factory=dict)
    trusted: dict[str, str] = field(default_factory=dict)

    def files(self) -> OriginalFiles:
        """Which files the model is of, as far as any of its variants knows."""
        found = [on_disk.files() for on_disk in self.on_disk.values()]
        digests, stamps = [files.digest for files in found], [files.stamp for files in found]
        return OriginalFiles(next(filter(None, digests), None), next(filter(None, stamps), None))

    def languages(self) -> tuple[str, ...]:
        """Those that the model speaks: the recipe's, or what its vocabulary says. Raises TokenizerError."""
        readable = [on_disk for on_disk in self.on_disk.values() if on_disk.decoder]
        first = next((on_disk for on_disk in readable if on_disk.checkpoint), readable[0] if readable else None)
        return self.recipe.languages or (spoken_languages(first.tokenizer(self.recipe)) if first else ("en",))


def prepare(
    recipe: Recipe,
    variants: list[Variant],
    tokens: int,
    options: EngineOptions,
    trusted: dict[str, str],
    named: bool = True,
    batch: int | None = 1,
) -> Preparation:
    """Have on disk what the variants need; `tokens` of a prompt and its answer in all are planned for, and `batch` of them
    at a time, or, if None, one, and several where weights are read from disk for each pass.

    A variant that cannot be had is told with its reason; only where none can,
    RunError is raised. Originals that are not at hand are not downloaded for a
    variant that is too large for the memory that is left, nor where an artifact
    is at hand for one that was not `named`, if they are large.
    """
    found = Preparation(recipe, trusted=trusted)
    problems: dict[str, str] = {}
    for variant in sorted(variants, key=lambda variant: variant.bits is None):  # an artifact tells of the others' size
        try:
            engine_of(variant).check(variant)
            if not named and (reason := _unasked_download(recipe, variant, variants, found)):
                found.left_out[str(variant)] = reason
                continue
            found.on_disk[str(variant)] = _too_large(recipe, variant, (batch or 1) * tokens, found) or engine_of(
                variant
            ).on_disk(recipe, variant, options, trusted)
        except ItrexChatError as error:
            problems[str(variant)] = str(error)
    found.problems = {str(variant): problems[str(variant)] for variant in variants if str(variant) in problems}
    if not found.on_disk:
        raise RunError(next(iter(found.problems.values())))
    _tell_artifacts(found)
    _tell_needs(found, recipe, variants, tokens, batch)
    return found


def _unasked_download(recipe: Recipe, variant: Variant, variants: list[Variant], found: Preparation) -> str:
    """Why a variant that nobody named is not asked, if its originals are large and not at hand."""
    known = next((on_disk.artifact for on_disk in found.on_disk.values() if on_disk.artifact), None)
    if known and not variant.bits and is_pushed(known, cache_home()):
        return refusal(sources.resolve(recipe).origin, known.manifest)
    if variant.bits or known is None or sources.at_hand(recipe):
        return ""
    size = known.manifest["source"]["bytes"]
    if size <= LARGEST_UNASKED:
        return ""
    return _(
        "{model} {variant} is not asked: its originals ({size}) are not all on this machine. To download them, name "
        "the variants: --variants {variants}.",
        model=recipe.name,
        variant=variant.title,
        size=readable(size),
        variants=",".join(dict.fromkeys(each.precision for each in variants)),
    )


def _too_large(recipe: Recipe, variant: Variant, tokens: int, found: Preparation) -> OnDisk | None:
    """What is known of a variant whose originals are not at hand and that would not fit into memory anyway."""
    known = next((on_disk for on_disk in found.on_disk.values() if on_disk.artifact), None)
    if variant.bits or known is None or sources.at_hand(recipe):
        return None
    needed = engine_of(variant).memory(known, recipe, variant, tokens).least
    return known if needed > machine.available_memory() else None


def _tell_artifacts(found: Preparation) -> None:
    for name, on_disk in found.on_disk.items():
        if (artifact := on_disk.artifact) and Variant.parse(name).bits:
            found.artifacts[name] = ArtifactFacts(
                str(artifact.folder), artifact.nbytes(), artifact.manifest["statistics"]
            )


def _tell_needs(found: Preparation, recipe: Recipe, variants: list[Variant], tokens: int, batch: int | None) -> None:
    """The needs of the variants, and of this program's others."""
    others = [Variant(precision) for precision in DENSE] + [Variant.of(recipe.quantization)]
    dense = next((on_disk for on_disk in found.on_disk.values() if on_disk.checkpoint), None)
    known = dense or next((on_disk for on_disk in found.on_disk.values() if on_disk.decoder), None)
    for variant in dict.fromkeys([*others, *variants]):
        on_disk = found.on_disk.get(str(variant)) or known
        if on_disk is None or str(variant) in found.problems | found.left_out:
            continue
        if dense and on_disk.decoder and not variant.bits:
            on_disk = dense
        _tell_need(found, recipe, variant, on_disk, tokens, batch)


def _tell_need(
    found: Preparation, recipe: Recipe, variant: Variant, on_disk: OnDisk, tokens: int, batch: int | None
) -> None:
    """A variant's needs. Where its weights will not fit, and nobody said how many questions it answers at a time, it is as
    many as half of what is left has room for: a pass takes the same time for all of them."""
    engine, free = engine_of(variant), left(recipe, variant)
    together = batch or 1 if engine.batches else 1
    memory = engine.memory(on_disk, recipe, variant, together * tokens)
    half = memory.least + max(0, free - memory.least) // 2
    if memory.mapped and memory.total > free:
        found.streamed.append(str(variant))
        while batch is None and together < MOST_TOGETHER:
            more = engine.memory(on_disk, recipe, variant, (together + 1) * tokens)
            if more.least > half:
                break
            memory, together = more, together + 1
    found.needs[str(variant)], found.batches[str(variant)] = memory.least, together
