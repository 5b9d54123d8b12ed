"""What a chatbot is built from, with the names and arguments of ITREX's classes."""

import dataclasses
import os
from typing import Any

from itrex_chat.foundation.choices import one_of
from itrex_chat.foundation.errors import RecipeError
from itrex_chat.foundation.language import _
from itrex_chat.neuralchat.arguments import accept
from itrex_chat.settings import generation as settings_generation
from itrex_chat.settings import recipe as recipes
from itrex_chat.settings.engine_options import EngineOptions
from itrex_chat.settings.kv_cache import FORMATS
from itrex_chat.settings.recipe import Quantization
from itrex_chat.settings.variant import ENGINES, ITREX, NATIVE, Variant


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
        **others: Any,
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
    `trust_remote_code` lets it run the code that comes with a model. `kv_cache` "fp16" or "int8" keeps keys and values in
    fewer bits; None is what the recipe says.
    """

    def __init__(
        self,
        model_name_or_path: str = recipes.EMBEDDED,
        optimization_config: RtnConfig | MixedPrecisionConfig | None = None,
        device: str = "auto",
        *,
        engine: str = NATIVE,
        trust_remote_code: bool = False,
        kv_cache: str | None = None,
        **others: Any,
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
        one_of("PipelineConfig: engine", engine, ENGINES)
        if trust_remote_code and engine != ITREX:
            raise RecipeError(
                _(
                    'PipelineConfig: trust_remote_code is for engine="itrex" only; the native engine never runs a model\'s '
                    "own code."
                )
            )
        self.options = EngineOptions(trust_remote_code=bool(trust_remote_code))
        one_of("PipelineConfig: kv_cache", kv_cache, (None, *FORMATS))
        self.recipe = recipes.load(os.fspath(model_name_or_path)).keeping(kv_cache)
        if isinstance(optimization_config, RtnConfig):
            self.recipe = dataclasses.replace(self.recipe, quantization=optimization_config.quantization)
            self.variant = str(Variant.of(self.recipe.quantization, engine))
        else:
            self.variant = str(Variant(optimization_config.variant, engine))


class GenerationConfig(settings_generation.GenerationConfig):
    """Settings of an answer, with the other names of ITREX's class accepted where they change nothing."""

    def __init__(self, **arguments: Any):
        known = {field.name for field in dataclasses.fields(settings_generation.GenerationConfig)}
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
