"""Which numbers a variant would give, and giving them: what a worker does with a loaded variant."""

import dataclasses
from collections.abc import Iterator, Sequence
from importlib.metadata import version

import numpy as np
import torch
from tqdm import tqdm

from itrex_chat import __version__
from itrex_chat.architecture.layout import HEAD
from itrex_chat.artifacts.obtaining import verified
from itrex_chat.decoder.loading import load_block
from itrex_chat.decoder.model import Chunk, Decoder
from itrex_chat.engines.native.weights import QuantizedWeights
from itrex_chat.engines.on_disk import OnDisk
from itrex_chat.engines.session import Session
from itrex_chat.foundation import progress
from itrex_chat.foundation.errors import GenerationError, RunError
from itrex_chat.foundation.language import _
from itrex_chat.jobs.job import ScoreLayers
from itrex_chat.jobs.passage import Passage
from itrex_chat.kernels import choose
from itrex_chat.quality import distributions
from itrex_chat.quality.distributions import Compact
from itrex_chat.quality.passages import STEP, passes
from itrex_chat.quality.store import NUMERICS_VERSION, Parts, digest
from itrex_chat.settings.recipe import Recipe
from itrex_chat.settings.variant import Variant

COPIES = 6  # of the logits, while they are compared


def score(session: Session, passages: Sequence[Passage], reference: str, scores: str | None) -> Iterator[Passage]:
    """Go through passages with a variant, yielding each when its results are kept: its distributions as the reference,
    or, where `scores` is a key, how it compares with them."""
    kept, title = Parts("reference", reference), session.variant
    with _bar(_("scoring {variant}", variant=title), passages) as bar:
        for passage in passages:
            if scores is None:
                kept.write(passage, reference_of(session.decoder, passage))
            else:
                Parts("scores", scores).write(passage, score_of(session.decoder, passage, _read(kept, passage)))
            bar.update(len(passage.ids))
            yield passage


def score_layers(session: Session, job: ScoreLayers, trusted: dict[str, str]) -> Iterator[int]:
    """Score the baseline in `session` with one decoder block at a time in the variant's weights, activations in
    float32; yields each block's number when it is done (the head's is the number of blocks)."""
    decoder, recipe = session.decoder, Variant.parse(job.variant).applied_to(job.recipe)
    weights = QuantizedWeights(verified(recipe, trusted=trusted), choose(), "fp32")
    kept, count = Parts("reference", job.reference), len(decoder.blocks)
    with _bar(_("scoring layers"), job.passages, len(job.scores)) as bar:
        for number, key in job.scores.items():
            # without the native pass, which holds the old weights
            if number == count:
                head = weights.linear([HEAD.removesuffix(".weight")])
                mixed = dataclasses.replace(decoder, head=head, native_pass=None)
            else:
                blocks = (*decoder.blocks[:number], load_block(weights, number), *decoder.blocks[number + 1 :])
                mixed = dataclasses.replace(decoder, blocks=blocks, native_pass=None)
            parts = Parts("scores", key)
            for passage in job.passages:
                if parts.read(passage) is None:
                    parts.write(passage, score_of(mixed, passage, _read(kept, passage)))
                bar.update(len(passage.ids))
            yield number


def _bar(title: str, passages: Sequence[Passage], times: int = 1) -> tqdm:
    return progress.bar(title, times * sum(len(passage.ids) for passage in passages), "tokens")


def _read(kept: Parts, passage: Passage) -> dict[str, np.ndarray]:
    """The baseline's distributions. Raises RunError where they were damaged or removed since they were made."""
    if (found := kept.read(passage)) is None:
        raise RunError(
            _(
                "The baseline's predictions for {passage} are not in the cache any more; measure again.",
                passage=passage.name,
            )
        )
    return found


def reference_of(decoder: Decoder, passage: Passage) -> dict:
    """The arrays of `Compact` for all positions of a passage."""
    generator = torch.Generator().manual_seed(int(passage.key[:12], 16))
    return _joined(
        [
            distributions.compact(log_probs, targets, generator)
            for _start, log_probs, targets in predictions(decoder, passage)
        ]
    )


def score_of(decoder: Decoder, passage: Passage, reference: dict) -> dict:
    """The arrays of `Score` for all positions of a passage."""
    reference = {name: torch.from_numpy(array) for name, array in reference.items()}
    return _joined(
        [
            distributions.score(
                Compact(**{name: array[start : start + len(targets)] for name, array in reference.items()}),
                log_probs,
                targets,
            )
            for start, log_probs, targets in predictions(decoder, passage)
        ]
    )


def predictions(decoder: Decoder, passage: Passage) -> Iterator[tuple[int, torch.Tensor, torch.Tensor]]:
    """A passage's positions in parts: the first one's number, log-probabilities float32 [n, vocabulary], and the tokens
    that followed, int64 [n]. Raises GenerationError where a model gives no numbers."""
    ids, first = list(passage.ids), passage.first
    context, vocabulary = decoder.config.context_length, decoder.config.vocab_size
    if len(ids) > context:
        raise GenerationError(
            _(
                "{name} has {count} tokens, but the model takes {context} in all.",
                name=passage.name,
                count=len(ids),
                context=context,
            )
        )
    if max(ids) >= vocabulary:
        raise GenerationError(
            _(
                "{name} has the token {largest}, which a vocabulary of {count} does not have: it was "
                "made for another model.",
                name=passage.name,
                largest=max(ids),
                count=vocabulary,
            )
        )
    cache = decoder.new_cache(len(ids))
    cache.begin([len(ids)])
    for start, stop in passes(passage):
        if stop < first:
            decoder.read([Chunk(0, ids[start:stop], 0)], cache)
            continue
        targets = torch.tensor(ids[start + 1 : stop + 1])
        [logits] = decoder.read([Chunk(0, ids[start:stop], len(targets))], cache)
        log_probs = torch.log_softmax(logits, -1)
        if not torch.isfinite(log_probs).all():
            raise GenerationError(_("The model gives logits that are not finite numbers in {name}.", name=passage.name))
        yield start + 1 - first, log_probs, targets


def reference_key(recipe: Recipe, baseline: str, on_disk: OnDisk) -> str:
    """The store's key of the baseline."""
    return digest(
        {
            "source": dict(sorted(_source_digests(on_disk).items())),
            "variant": baseline,
            "top": distributions.TOP,
            "samples": distributions.SAMPLES,
        }
        | _cache_format(recipe, baseline)
        | _numerics()
    )


def scores_key(reference: str, recipe: Recipe, variant: str, on_disk: OnDisk) -> str:
    """The store's key of a variant that is compared with what is kept under `reference`."""
    content = {"reference": reference, "variant": _content(recipe, variant, on_disk)}
    return digest(content | _cache_format(recipe, variant) | _numerics())


def _numerics() -> dict[str, int | str]:
    return {"version": NUMERICS_VERSION, "torch": version("torch").partition("+")[0]}


def _cache_format(recipe: Recipe, variant: str) -> dict[str, str]:
    """What the format of keys and values adds to a key: nothing for that of before there was a choice."""
    kept = Variant.parse(variant).cache_format(recipe)
    return {} if kept == "fp32" else {"kv_cache": kept}


def _source_digests(on_disk: OnDisk) -> dict[str, str]:
    """The SHA-256 of each original file; an artifact knows those that it was made from."""
    if on_disk.checkpoint:
        return on_disk.checkpoint.source.digests()
    assert on_disk.artifact is not None
    return on_disk.artifact.manifest["source"]["files"]


def _content(recipe: Recipe, variant: str, on_disk: OnDisk) -> str | list:
    """What determines a variant's numbers, beside the source."""
    if not Variant.parse(variant).bits or on_disk.artifact is None:
        return variant
    kernel, key = choose(), on_disk.artifact.manifest["key"]
    return [key, recipe.quantization.compute_dtype, __version__, kernel.name, kernel.detail()]


def logits_bytes(vocabulary: int) -> int:
    """Memory that scoring takes beside the variant itself."""
    return STEP * vocabulary * 4 * COPIES


def _joined(parts: list) -> dict:
    """Dataclasses of tensors with the same fields, one below the other."""
    return {
        field.name: torch.cat([getattr(part, field.name) for part in parts]).numpy()
        for field in dataclasses.fields(parts[0])
    }
