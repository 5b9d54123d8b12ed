"""`build_chatbot`: a chatbot for a program, with the names of ITREX's NeuralChat."""

import dataclasses
import os
from collections.abc import Iterable, Iterator
from pathlib import Path

from itrex_chat import engines
from itrex_chat.foundation import machine
from itrex_chat.foundation.choices import one_of
from itrex_chat.foundation.errors import RecipeError
from itrex_chat.foundation.language import _
from itrex_chat.generation.response import Response
from itrex_chat.neuralchat.arguments import accept
from itrex_chat.settings import generation as generation_config
from itrex_chat.settings import recipe as recipes
from itrex_chat.settings.recipe import Quantization, Recipe


class RtnConfig:
    """Weight-only round-to-nearest quantization, as ITREX's class of this name.

    `weight_dtype` is int4_fullrange, int4_clip (the default for 4 bits) or
    int8; `compute_dtype` int8, bf16 or fp32 (the default). A `head` of "int8",
    "int4" or "none" is this program's own; None is int8, or none where
    `llm_int8_skip_modules` names the head.
    """

    def __init__(
        self,
        bits: int = 4,
        group_size: int = 32,
        compute_dtype: str | None = None,
        weight_dtype: str | None = None,
        scale_dtype: str | None = None,
        *,
        head: str | None = None,
        llm_int8_skip_modules: list[str] | None = None,
        **others,
    ):
        accept(
            "RtnConfig",
            others,
            {
                "mse_range": (False,),
                "use_double_quant": (False,),
                "double_quant_scale_dtype": (None,),
                "sym": (True,),
                "layer_wise": (False, True),
                "use_ggml": (False,),
                "use_quant": (True,),
                "use_neural_speed": (False, None),
                "use_ipex": (False,),
                "device": ("auto", "cpu"),
            },
        )
        one_of("RtnConfig: bits", bits, (4, 8))
        one_of("RtnConfig: scale_dtype", scale_dtype, (None, "fp16"))
        weight_dtype = weight_dtype or {4: "int4_clip", 8: "int8"}[bits]
        for module in llm_int8_skip_modules or ():
            one_of("RtnConfig: llm_int8_skip_modules", module, ("lm_head", "output_layer"))
        self.quantization = Quantization(
            weight_dtype=weight_dtype,
            group_size=group_size,
            compute_dtype=compute_dtype or "fp32",
            head=head or ("none" if llm_int8_skip_modules else "int8"),
        )
        if self.quantization.bits != bits:
            raise RecipeError(
                _("RtnConfig: weight_dtype {name} does not have {bits} bits.", name=weight_dtype, bits=bits)
            )


class MixedPrecisionConfig:
    """The unquantized variants: dtype "float32" or "bfloat16" (the default), as ITREX's class of this name."""

    def __init__(self, dtype: str = "bfloat16"):
        one_of("MixedPrecisionConfig: dtype", dtype, ("float32", "bfloat16"))
        self.variant = {"float32": "fp32", "bfloat16": "bf16"}[dtype]


class PipelineConfig:
    """Which model, and how. `model_name_or_path` is a recipe, a folder, a `.gguf` file or a hub's repository.

    Arguments of ITREX that mean nothing on a CPU or here are refused when
    they are given another value than their default. Without an
    `optimization_config` the chatbot is the BF16 variant, as in ITREX.
    `engine` "itrex" has ITREX itself compute, in an environment of its own;
    `trust_remote_code` lets it run the code that comes with a model.
    """

    def __init__(
        self,
        model_name_or_path: str = recipes.EMBEDDED,
        optimization_config: RtnConfig | MixedPrecisionConfig | None = None,
        device: str = "auto",
        *,
        engine: str = engines.NATIVE,
        trust_remote_code: bool = False,
        **others,
    ):
        accept(
            "PipelineConfig",
            others | {"device": device},
            {
                "device": ("auto", "cpu"),
                "tokenizer_name_or_path": (None, model_name_or_path),
                "task": ("", "chat"),
                "hf_endpoint_url": (None,),
                "hf_access_token": (None,),
                "plugins": (None, {}),
                "loading_config": (None,),
                "assistant_model": (None,),
                "serving_config": (None,),
                "openai_config": (None,),
            },
        )
        if not isinstance(model_name_or_path, (str, os.PathLike)):
            raise RecipeError(
                _("PipelineConfig: model_name_or_path is a name or a path, not {value!r}.", value=model_name_or_path)
            )
        optimization_config = optimization_config or MixedPrecisionConfig()
        if not isinstance(optimization_config, (RtnConfig, MixedPrecisionConfig)):
            raise RecipeError(
                _(
                    "PipelineConfig: optimization_config is an RtnConfig or a MixedPrecisionConfig, not {kind}.",
                    kind=type(optimization_config).__name__,
                )
            )
        one_of("PipelineConfig: engine", engine, engines.ENGINES)
        if trust_remote_code and engine != engines.ITREX:
            raise RecipeError(
                _(
                    'PipelineConfig: trust_remote_code is for engine="itrex" only; the native engine never runs a model\'s '
                    "own code."
                )
            )
        self.options = engines.EngineOptions(trust_remote_code=bool(trust_remote_code))
        self.recipe = recipes.load(os.fspath(model_name_or_path))
        self.variant = getattr(optimization_config, "variant", None)
        if self.variant is None:
            self.recipe = dataclasses.replace(self.recipe, quantization=optimization_config.quantization)
            self.variant = f"int{self.recipe.quantization.bits}"
        self.variant = engines.variant_of(engine, self.variant)


class GenerationConfig(generation_config.GenerationConfig):
    """Settings of an answer, with the other names of ITREX's class accepted where they change nothing."""

    def __init__(self, **arguments):
        known = {field.name for field in dataclasses.fields(generation_config.GenerationConfig)}
        accept(
            "GenerationConfig",
            {name: value for name, value in arguments.items() if name not in known},
            {
                "device": ("auto", "cpu"),
                "num_beams": (0, 1),
                "num_return_sequences": (1,),
                "bad_words_ids": (None,),
                "force_words_ids": (None,),
                "use_hpu_graphs": (False,),
                "use_cache": (True,),
                "audio_output_path": (None,),
                "cpu_jit": (False, True),
                "num_gpus": (0,),
                "max_gpu_memory": (None,),
                "use_fp16": (False,),
                "ipex_int8": (False,),
                "return_stats": (False,),
                "format_version": ("v2",),
                "task": ("", "chat"),
                "sql_metadata": ("",),
            },
        )
        super().__init__(**{name: value for name, value in arguments.items() if name in known})


class Chatbot:
    """One variant of a model, ready to answer."""

    def __init__(self, recipe: Recipe, variant: str, decoder, tokenizer, facts: dict):
        self.recipe, self.variant = recipe, variant
        self._decoder, self._tokenizer, self._facts = decoder, tokenizer, facts

    def predict(
        self, query: str, origin_query: str = "", config: generation_config.GenerationConfig | None = None
    ) -> str:
        """The answer to one question. `origin_query` is ITREX's and not used."""
        return self.chat([{"role": "user", "content": query}], config).text

    def predict_stream(
        self, query: str, origin_query: str = "", config: generation_config.GenerationConfig | None = None
    ) -> Iterator[str]:
        """The answer to one question in pieces, as they are finished."""
        for piece in self.stream([{"role": "user", "content": query}], config):
            if isinstance(piece, str):
                yield piece

    def chat(self, messages: Iterable, config: generation_config.GenerationConfig | None = None) -> Response:
        """The answer to a conversation: messages with role (system, user, assistant) and content, the last the user's."""
        *_pieces, response = self.stream(messages, config)
        return response

    def stream(
        self, messages: Iterable, config: generation_config.GenerationConfig | None = None
    ) -> Iterator[str | Response]:
        """Pieces of the answer to a conversation, and last the Response."""
        from itrex_chat.chat.messages import as_messages

        yield from self._answer(self._prompt(as_messages(messages)), config or self.recipe.generation)

    def _prompt(self, messages: list) -> list[int]:
        return self._tokenizer.prompt(messages)

    def _answer(self, prompt: list[int], config: generation_config.GenerationConfig) -> Iterator[str | Response]:
        from itrex_chat.generation.loop import generate

        yield from generate(self._decoder, self._tokenizer, prompt, config)

    def peak_memory(self) -> int:
        """The most memory that the model's process has had, in bytes."""
        return machine.peak_memory()

    def close(self) -> None:
        """Let go of what runs outside of this process, if anything does."""

    @property
    def decoder(self) -> "Decoder":  # noqa: F821
        return self._decoder

    def facts(self) -> dict:
        """Kernel, compute dtype, threads, bytes on disk and of weights in memory."""
        return dict(self._facts)


def build_chatbot(config: PipelineConfig | None = None) -> Chatbot:
    """The chatbot that a PipelineConfig describes, from the cache if it was built before.

    Raises ItrexChatError, each with a sentence on what to do.
    """
    config = config or PipelineConfig()
    return load_chatbot(config.recipe, config.variant, options=config.options)


def load_chatbot(
    recipe: Recipe, variant: str, home: Path | None = None, options: engines.EngineOptions = engines.EngineOptions()
) -> Chatbot:
    """A variant ("fp32", "bf16", "int4" or "int8", "itrex-" in front for ITREX's) of a recipe's model.

    Raises ItrexChatError.
    """
    if engines.engine_and_precision(variant)[0] == engines.ITREX:
        from itrex_chat.engines.itrex.session import load_itrex_chatbot

        return load_itrex_chatbot(recipe, variant, home, options)
    import torch

    from itrex_chat import sources
    from itrex_chat.chat import load_tokenizer
    from itrex_chat.engines.native import weights as variants
    from itrex_chat.kernels import choose, described, why_not_faster

    torch.set_num_threads(machine.threads())
    kernel = choose()
    facts = {
        "threads": torch.get_num_threads(),
        "kernel": described(kernel),
        "why": why_not_faster(kernel),
        "compute_dtype": variant,
    }
    if variant in variants.DENSE:
        from itrex_chat.checkpoints import open_checkpoint

        source = sources.resolve(recipe, home)
        checkpoint = open_checkpoint(source)
        gguf = source.weights[0] if source.format == "gguf" else None
        tokenizer = load_tokenizer(source.folder, checkpoint.family, recipe.chat, gguf)
        decoder = variants.load_dense(checkpoint, variant)
        facts |= {
            "kernel": described(kernel) if decoder.native else "torch",
            "disk_bytes": source.size(),
            "stored": checkpoint.description,
            "origin": source.origin,
        }
    else:
        from itrex_chat.artifacts.obtain import verified

        artifact = verified(recipe, home)
        tokenizer = load_tokenizer(artifact.folder, artifact.family, recipe.chat)
        decoder = variants.load_quantized(artifact, kernel, recipe.quantization.compute_dtype)
        facts |= {
            "disk_bytes": artifact.nbytes(),
            "compute_dtype": recipe.quantization.compute_dtype,
            "stored": artifact.manifest["source"]["stored"],
            "origin": artifact.manifest["source"]["origin"],
        }
    return Chatbot(recipe, variant, decoder, tokenizer, facts | {"weight_bytes": decoder.weight_bytes()})
