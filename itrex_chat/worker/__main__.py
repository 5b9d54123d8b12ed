"""A worker: prepares a model, or loads one variant of it and answers questions (`protocol.py`)."""

import contextlib
import dataclasses
import os
import sys
import time
from pathlib import Path

from itrex_chat.engines import ITREX, EngineOptions, engine_and_precision
from itrex_chat.foundation import machine
from itrex_chat.foundation.errors import ItrexChatError, RunError, UnknownArchitecture
from itrex_chat.foundation.language import _
from itrex_chat.foundation.units import readable
from itrex_chat.jobs.protocol import receive_job, tell
from itrex_chat.settings import recipe as recipes
from itrex_chat.settings.recipe import Recipe


def main() -> int:
    try:
        job = receive_job()
        {"prepare": prepare, "ask": ask, "plan_scoring": plan_scoring, "score": score, "score_layers": score_layers}[
            job.pop("task")
        ](**job)
    except ItrexChatError as error:
        tell("error", message=str(error))
        return 1
    except MemoryError:
        tell("error", message=_out_of_memory())
        return 1
    except RuntimeError as error:
        if "not enough memory" not in str(error):  # torch's way to say MemoryError
            raise
        tell("error", message=_out_of_memory())
        return 1
    except (KeyboardInterrupt, BrokenPipeError):
        os._exit(130)
    return 0


@dataclasses.dataclass(frozen=True)
class Stored:
    """Where a model's tokenizer is and what its decoder is like, from a checkpoint or from an artifact."""

    folder: Path
    family: str
    decoder: "DecoderConfig"  # noqa: F821
    gguf: Path | None = None
    embedding_bytes: int = 2


def prepare(recipe: dict, variants: list[str], tokens: int, options: dict | None = None) -> None:
    """Have everything on disk that the variants need, and say how much memory each will take.

    A variant that cannot be had is told with its reason; only when none can,
    the whole model has failed.
    """
    tell("prepared", **_preparation(recipes.from_dict(recipe), variants, tokens, EngineOptions(**options or {})))


def _preparation(model: Recipe, variants: list[str], tokens: int, options: EngineOptions = EngineOptions()) -> dict:
    from itrex_chat.chat import load_tokenizer, spoken_languages
    from itrex_chat.engines.native.memory import needed
    from itrex_chat.engines.native.weights import DENSE, QUANTIZED
    from itrex_chat.kernels import choose

    kernel = choose()
    stored, artifacts, problems, foreign = {}, {}, {}, []
    for name in variants:
        engine, precision = engine_and_precision(name)
        try:
            if engine == ITREX:
                from itrex_chat.engines.itrex.session import check

                check(precision)
            if precision in QUANTIZED:
                artifacts[name] = artifact = _artifact(for_variant(model, name))
                stored["artifact"] = Stored(artifact.folder, artifact.family, artifact.decoder)
            elif "checkpoint" not in stored:
                stored["checkpoint"] = _checkpoint(model)
        except ItrexChatError as error:
            if engine == ITREX and options.trust_remote_code and isinstance(error, UnknownArchitecture):
                foreign.append(name)
            else:
                problems[name] = _explained(model, engine, error)
    if not stored:
        if not foreign:
            raise RunError(next(iter(problems.values())))
        from itrex_chat.engines.itrex.memory import unknown_model
        from itrex_chat.sources import resolve

        return {
            "needs": dict.fromkeys(foreign, unknown_model(resolve(model).size())),
            "problems": problems,
            "languages": list(model.languages or ("en",)),
            "artifacts": {},
        }
    used = stored.get("checkpoint") or stored["artifact"]
    languages = model.languages or spoken_languages(load_tokenizer(used.folder, used.family, model.chat, used.gguf))
    every = dict.fromkeys([*DENSE, f"int{model.quantization.bits}", *variants])
    needs = {
        name: needed(
            used.decoder,
            name,
            tokens,
            for_variant(model, name).quantization,
            kernel,
            used.embedding_bytes if name in DENSE else 2,
        )
        for name in every
        if name not in problems
    }
    return {
        "needs": needs,
        "languages": list(languages),
        "problems": problems,
        "artifacts": {
            name: {
                "folder": str(artifact.folder),
                "bytes": artifact.nbytes(),
                "statistics": artifact.manifest["statistics"],
            }
            for name, artifact in artifacts.items()
        },
    }


def _explained(model: Recipe, engine: str, error: ItrexChatError) -> str:
    if engine != ITREX or not isinstance(error, UnknownArchitecture):
        return str(error)
    from itrex_chat.engines.itrex.foreign import explained

    return explained(model, error)


def _artifact(model: Recipe):
    from itrex_chat.artifacts.obtain import verified

    return verified(model)


def _checkpoint(model: Recipe) -> Stored:
    from itrex_chat import sources
    from itrex_chat.checkpoints import open_checkpoint

    source = sources.resolve(model)
    checkpoint = open_checkpoint(source)
    return Stored(
        source.folder,
        checkpoint.family,
        checkpoint.decoder,
        source.weights[0] if source.format == "gguf" else None,
        checkpoint.dtype("model.embed_tokens.weight").itemsize,
    )


def ask(
    recipe: dict, variant: str, questions: list[dict], system: str, generation: dict, options: dict | None = None
) -> None:
    """Load one variant and answer the questions, each for itself."""
    started = time.perf_counter()
    from itrex_chat.generation.response import Response
    from itrex_chat.neuralchat.chatbot import load_chatbot
    from itrex_chat.settings.generation import GenerationConfig

    model = recipes.from_dict(recipe)
    with contextlib.closing(
        load_chatbot(for_variant(model, variant), variant, options=EngineOptions(**options or {}))
    ) as chatbot:
        config = GenerationConfig(**generation)
        tell("loaded", **{"seconds": time.perf_counter() - started, "memory": machine.peak_memory(), **chatbot.facts()})
        for question in questions:
            messages = [{"role": "system", "content": system}] * bool(system)
            began = time.perf_counter()
            for piece in chatbot.stream([*messages, {"role": "user", "content": question["text"]}], config):
                if isinstance(piece, Response):
                    response = piece
                else:
                    tell("text", id=question["id"], text=piece)
            tell(
                "answer",
                id=question["id"],
                text=response.text,
                token_ids=response.token_ids,
                prompt_token_ids=response.prompt_token_ids,
                finish_reason=response.finish_reason,
                prompt_tokens=response.prompt_tokens,
                new_tokens=response.new_tokens,
                ttft=response.ttft,
                tpot=response.tpot,
                tokens_per_second=response.tokens_per_second,
                prefill_tokens_per_second=response.prefill_tokens_per_second,
                drafted_tokens=response.drafted_tokens,
                accepted_tokens=response.accepted_tokens,
                seconds=time.perf_counter() - began,
            )
        tell("done", peak_memory=chatbot.peak_memory())


def plan_scoring(
    recipe: dict, baseline: str, variants: list[str], answers: list[list[int]], texts: list[str], tokens: int
) -> None:
    """As `prepare`, and besides: the text of each token of the answers, the tokens of the texts, and where in the store
    (`quality.store`) each variant's results belong."""
    from itrex_chat.chat.streaming import token_pieces
    from itrex_chat.kernels import choose
    from itrex_chat.quality import scoring

    model = recipes.from_dict(recipe)
    ready = _preparation(model, list(dict.fromkeys([baseline, *variants])), tokens)
    if problem := ready["problems"].get(baseline):
        raise RunError(problem)
    tokenizer, decoder = _tokenizer(model, baseline)
    vocabulary = decoder.vocab_size
    extra = scoring.logits_bytes(vocabulary)
    reference, keys = scoring.keys(model, baseline, [name for name in variants if name not in ready["problems"]])
    tell(
        "planned",
        problems=ready["problems"],
        needs={name: size + extra for name, size in ready["needs"].items()},
        texts=[tokenizer.encode(Path(text).read_text("utf-8")) for text in texts],
        pieces=[token_pieces(tokenizer, ids) for ids in answers],
        vocabulary=vocabulary,
        layers=decoder.layers,
        kernel=choose().name,
        artifacts=ready["artifacts"],
        reference=reference,
        variants=keys,
    )


def score(recipe: dict, variant: str, passages: list[dict], reference: str, scores: str | None) -> None:
    from itrex_chat.quality import scoring

    scoring.score(recipes.from_dict(recipe), variant, passages, reference, scores)


def score_layers(recipe: dict, baseline: str, variant: str, passages: list[dict], reference: str, scores: dict) -> None:
    from itrex_chat.quality import scoring

    scoring.score_layers(
        recipes.from_dict(recipe),
        baseline,
        variant,
        passages,
        reference,
        {int(number): key for number, key in scores.items()},
    )


def _tokenizer(model: Recipe, variant: str):
    """The tokenizer that a variant is loaded with, and its decoder's configuration."""
    from itrex_chat.chat import load_tokenizer
    from itrex_chat.engines.native.weights import QUANTIZED

    if variant in QUANTIZED:
        artifact = _artifact(for_variant(model, variant))
        return load_tokenizer(artifact.folder, artifact.family, model.chat), artifact.decoder
    stored = _checkpoint(model)
    return load_tokenizer(stored.folder, stored.family, model.chat, stored.gguf), stored.decoder


def for_variant(model: Recipe, variant: str) -> Recipe:
    """The recipe with the quantization that a variant's name asks for."""
    from itrex_chat.engines.native.weights import QUANTIZED

    bits = QUANTIZED.get(engine_and_precision(variant)[1])
    if bits in (None, model.quantization.bits):
        return model
    weight_dtype = {4: "int4_fullrange", 8: "int8"}[bits]
    return dataclasses.replace(model, quantization=dataclasses.replace(model.quantization, weight_dtype=weight_dtype))


def _out_of_memory() -> str:
    return _("The memory ran out ({free} is left).", free=readable(machine.available_memory()))


if __name__ == "__main__":
    sys.exit(main())
