"""A worker's side: which numbers a variant would give, and giving them."""

import dataclasses
from collections.abc import Iterator
from importlib.metadata import version

import torch

from itrex_chat import __version__
from itrex_chat.architecture.layout import HEAD
from itrex_chat.decoder.model import Decoder
from itrex_chat.foundation import machine, progress
from itrex_chat.foundation.errors import GenerationError
from itrex_chat.foundation.language import _
from itrex_chat.jobs.protocol import tell
from itrex_chat.quality import distributions
from itrex_chat.quality.distributions import Compact
from itrex_chat.quality.passages import Passage
from itrex_chat.quality.store import NUMERICS_VERSION, Parts, digest
from itrex_chat.settings.recipe import Recipe

STEP = 128  # positions whose logits are held at a time
COPIES = 6  # of the logits, while they are compared


def score(recipe: Recipe, variant: str, passages: list[dict], reference: str, scores: str | None) -> None:
    """Load a variant and go through the passages: keep its distributions as the reference, or, where `scores` is a
    key, compare them with it."""
    from itrex_chat.neuralchat.chatbot import load_chatbot
    from itrex_chat.worker.__main__ import for_variant

    chatbot = load_chatbot(for_variant(recipe, variant), variant)
    tell("loaded", memory=machine.peak_memory(), **chatbot.facts())
    wanted, kept = _passages(passages), Parts("reference", reference)
    with progress.bar(_("scoring {variant}", variant=variant), sum(len(p.ids) for p in wanted), "tokens") as bar:
        for passage in wanted:
            if scores is None:
                kept.write(passage, reference_of(chatbot.decoder, passage))
            else:
                Parts("scores", scores).write(passage, score_of(chatbot.decoder, passage, kept.read(passage)))
            bar.update(len(passage.ids))
            tell("scored", passage=passage.key)
    tell("done", peak_memory=machine.peak_memory())


def score_layers(
    recipe: Recipe, baseline: str, variant: str, passages: list[dict], reference: str, scores: dict[int, str]
) -> None:
    """Load the baseline and score it with one decoder block at a time in the variant's weights, activations in float32.

    `scores` has a key for each block's number, and for the head under the
    number of blocks.
    """
    from itrex_chat.artifacts.obtain import verified
    from itrex_chat.decoder.loading import load_block
    from itrex_chat.engines.native.weights import QuantizedWeights
    from itrex_chat.kernels import choose
    from itrex_chat.neuralchat.chatbot import load_chatbot
    from itrex_chat.worker.__main__ import for_variant

    decoder = load_chatbot(recipe, baseline).decoder
    weights = QuantizedWeights(verified(for_variant(recipe, variant)), choose(), "fp32")
    wanted, kept, count = _passages(passages), Parts("reference", reference), len(decoder.blocks)
    with progress.bar(_("scoring layers"), len(scores) * sum(len(p.ids) for p in wanted), "tokens") as bar:
        for number, key in scores.items():
            if number == count:
                mixed = dataclasses.replace(decoder, head=weights.linear([HEAD.removesuffix(".weight")]), native=None)
            else:
                blocks = (*decoder.blocks[:number], load_block(weights, number), *decoder.blocks[number + 1 :])
                mixed = dataclasses.replace(
                    decoder, blocks=blocks, native=None
                )  # its native pass holds the old weights
            parts = Parts("scores", key)
            for passage in wanted:
                if parts.read(passage) is None:
                    parts.write(passage, score_of(mixed, passage, kept.read(passage)))
                bar.update(len(passage.ids))
            tell("layer", number=number)
    tell("done", peak_memory=machine.peak_memory())


def _passages(given: list[dict]) -> list[Passage]:
    return [Passage(**(passage | {"ids": tuple(passage["ids"])})) for passage in given]


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
    ids = torch.tensor(passage.ids)
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
    if int(ids.max()) >= vocabulary:
        raise GenerationError(
            _(
                "{name} has the token {largest}, which a vocabulary of {count} does not have: it was "
                "made for another model.",
                name=passage.name,
                largest=int(ids.max()),
                count=vocabulary,
            )
        )
    cache = decoder.new_cache(len(ids))
    cache.begin([len(ids)])
    for start in range(0, passage.first - 1, 4 * STEP):
        decoder.forward(ids[None, start : min(start + 4 * STEP, passage.first - 1)], cache)
    for start in range(passage.first, len(ids), STEP):
        targets = ids[start : start + STEP]
        logits = decoder.forward(ids[None, start - 1 : start - 1 + len(targets)], cache, all_logits=True)[0]
        log_probs = torch.log_softmax(logits, -1)
        if not torch.isfinite(log_probs).all():
            raise GenerationError(_("The model gives logits that are not finite numbers in {name}.", name=passage.name))
        yield start - passage.first, log_probs, targets


def keys(recipe: Recipe, baseline: str, variants: list[str]) -> tuple[str, dict[str, str]]:
    """The store's keys of the baseline and of the variants compared with it."""
    from itrex_chat import sources

    numerics = {"version": NUMERICS_VERSION, "torch": version("torch").partition("+")[0]}
    reference = digest(
        {
            "source": dict(sorted(sources.resolve(recipe).digests().items())),
            "variant": baseline,
            "top": distributions.TOP,
            "samples": distributions.SAMPLES,
        }
        | numerics
    )
    return reference, {
        name: digest({"reference": reference, "variant": _content(recipe, name)} | numerics) for name in variants
    }


def _content(recipe: Recipe, variant: str):
    """What determines a variant's numbers, beside the source."""
    from itrex_chat.artifacts.obtain import obtain
    from itrex_chat.engines.native.weights import DENSE
    from itrex_chat.kernels import choose
    from itrex_chat.worker.__main__ import for_variant

    if variant in DENSE:
        return variant
    kernel = choose()
    return [
        obtain(for_variant(recipe, variant)).artifact.manifest["key"],
        recipe.quantization.compute_dtype,
        __version__,
        kernel.name,
        kernel.detail(),
    ]


def logits_bytes(vocabulary: int) -> int:
    """Memory that scoring takes beside the variant itself."""
    return STEP * vocabulary * 4 * COPIES


def _joined(parts: list) -> dict:
    """Dataclasses of tensors with the same fields, one below the other."""
    return {
        field.name: torch.cat([getattr(part, field.name) for part in parts]).numpy()
        for field in dataclasses.fields(parts[0])
    }
