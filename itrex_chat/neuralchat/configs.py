"""What a chatbot is built from, with the names and arguments of ITREX's classes."""

import dataclasses
import os
from typing import Any

from itrex_chat.foundation.choices import one_of
from itrex_chat.foundation.errors import RecipeError
from itrex_chat.foundation.language import _
from itrex_chat.neuralchat.arguments import accept
from itrex_chat.neuralchat.weight_only import WeightOnlyConfig
from itrex_chat.settings import generation as settings_generation
from itrex_chat.settings import recipe as recipes
from itrex_chat.settings.engine_options import EngineOptions
from itrex_chat.settings.kv_cache import FORMATS
from itrex_chat.settings.variant import ENGINES, ITREX, NATIVE, Variant


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
        optimization_config: WeightOnlyConfig | MixedPrecisionConfig | None = None,
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
        if not isinstance(optimization_config, (WeightOnlyConfig, MixedPrecisionConfig)):
            raise RecipeError(
                _(
                    "PipelineConfig: optimization_config is an RtnConfig, a GPTQConfig, an AwqConfig, an AutoRoundConfig or a "
                    "MixedPrecisionConfig, not {kind}.",
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
        if isinstance(optimization_config, WeightOnlyConfig):
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
