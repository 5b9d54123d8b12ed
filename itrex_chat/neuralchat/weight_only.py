"""Weight-only quantization with the names and arguments of ITREX's classes."""

import dataclasses
import os
from typing import Any

from itrex_chat.foundation.choices import one_of, whole_within
from itrex_chat.foundation.errors import RecipeError
from itrex_chat.foundation.language import _
from itrex_chat.neuralchat.arguments import accept
from itrex_chat.settings.quantization import CALIBRATION_TOKENS, ITERATIONS, MOST_ITERATIONS, Quantization, named_text

HARMLESS: dict[str, tuple] = {
    "use_double_quant": (False,),
    "double_quant_scale_dtype": (None,),
    "sym": (True,),
    "layer_wise": (False, True),
    "use_ggml": (False,),
    "use_quant": (True,),
    "use_neural_speed": (False, None),
    "use_ipex": (False,),
    "device": ("auto", "cpu"),
}
SAMPLE = 512  # tokens


class WeightOnlyConfig:
    """What has a `quantization`, the recipe's."""

    quantization: Quantization


class RtnConfig(WeightOnlyConfig):
    """Weight-only round-to-nearest quantization, as ITREX's class of this name.

    `weight_dtype` is int4_fullrange, int4_clip (the default for 4 bits) or
    int8; `compute_dtype` int8, bf16 or fp32 (the default). `mse_range` looks for the scales that lose least. A `head` of
    "int8", "int4" or "none" is this program's own; None is int8, or none where
    `llm_int8_skip_modules` names the head.
    """

    def __init__(
        self,
        bits: int = 4,
        group_size: int = 32,
        compute_dtype: str | None = None,
        weight_dtype: str | None = None,
        scale_dtype: str | None = None,
        mse_range: bool = False,
        *,
        head: str | None = None,
        llm_int8_skip_modules: list[str] | None = None,
        **others: Any,
    ):
        accept("RtnConfig", others | {"mse_range": mse_range}, HARMLESS | {"mse_range": (False, True)})
        algorithm = {"algorithm": "search" if mse_range else "rtn"}
        self.quantization = _quantization(
            "RtnConfig",
            bits,
            group_size,
            compute_dtype,
            weight_dtype,
            scale_dtype,
            head,
            llm_int8_skip_modules,
            algorithm,
        )


class _Calibrated(WeightOnlyConfig):
    """What the classes of algorithms that read texts share: `algorithm` is the recipe's name of it, `others` are further arguments
    of ITREX's class, with the values that change nothing here."""

    algorithm: str
    others: dict[str, tuple] = {}

    def __init__(
        self,
        bits: int = 4,
        tokenizer: Any = None,
        dataset: list[str] | None = None,
        group_size: int = 32,
        compute_dtype: str | None = None,
        weight_dtype: str | None = None,
        scale_dtype: str | None = None,
        *,
        nsamples: int = CALIBRATION_TOKENS // SAMPLE,
        head: str | None = None,
        llm_int8_skip_modules: list[str] | None = None,
        **others: Any,
    ):
        where = type(self).__name__
        accept(where, others, HARMLESS | self.others)
        one_of(f"{where}: bits", bits, (4,))
        self.quantization = _quantization(
            where,
            bits,
            group_size,
            compute_dtype,
            weight_dtype,
            scale_dtype,
            head,
            llm_int8_skip_modules,
            {"algorithm": self.algorithm} | _calibration(where, dataset, nsamples),
        )


class GPTQConfig(_Calibrated):
    """Weight-only quantization by GPTQ, as ITREX's class of this name; groups are static, as artifacts have them.

    `dataset` is a list of text files, None the program's own texts, of which `nsamples` windows of 512 tokens are read. The
    tokenizer is the model's own whatever is given. Other arguments are those of `RtnConfig`.
    """

    algorithm = "gptq"
    others = {
        "blocksize": (128,),
        "damp_percent": (0.1,),
        "desc_act": (False,),
        "static_groups": (False, True),
        "max_input_length": (None, SAMPLE),
    }


class AwqConfig(_Calibrated):
    """Weight-only quantization by AWQ, as ITREX's class of this name; without zero points, with scales that are looked for
    (`mse_range`). Other arguments are those of `GPTQConfig`.
    """

    algorithm = "awq"
    others = {"zero_point": (False,), "mse_range": (True,)}


class AutoRoundConfig(_Calibrated):
    """Weight-only quantization by AutoRound, as ITREX's class of this name; without zero points. `iters` steps are learned for each
    block; steps are 1/`iters` at first. Other arguments are those of `GPTQConfig`.
    """

    algorithm = "autoround"
    others = {"lr": (None,), "minmax_lr": (None,), "enable_quanted_input": (True,), "calib_len": (SAMPLE,)}

    def __init__(
        self,
        bits: int = 4,
        tokenizer: Any = None,
        dataset: list[str] | None = None,
        group_size: int = 128,
        *dtypes: str | None,
        iters: int = ITERATIONS,
        **others: Any,
    ):
        super().__init__(bits, tokenizer, dataset, group_size, *dtypes, **others)
        whole_within("AutoRoundConfig: iters", iters, 1, MOST_ITERATIONS)
        self.quantization = dataclasses.replace(self.quantization, iterations=iters)


class _Refused(WeightOnlyConfig):
    """A class of ITREX whose algorithm is not here."""

    def __init__(self, *_arguments: Any, **_others: Any):
        raise RecipeError(
            _(
                "{name} is not among what this program computes; it has RtnConfig, AwqConfig, AutoRoundConfig and GPTQConfig.",
                name=type(self).__name__,
            )
        )


class TeqConfig(_Refused):
    """ITREX's class of this name; refused."""


def _calibration(where: str, dataset: Any, nsamples: Any) -> dict[str, Any]:
    """The recipe's settings of calibration for a list of text files and a number of windows. Raises RecipeError."""
    if dataset is not None and (
        not isinstance(dataset, (list, tuple)) or not all(isinstance(path, (str, os.PathLike)) for path in dataset)
    ):
        raise RecipeError(
            _("{where}: dataset must be a list of text files, not {value!r}.", where=where, value=dataset)
        )
    if type(nsamples) is not int or not 1 <= nsamples <= 2048:
        raise RecipeError(
            _(
                "{where}: nsamples cannot be {value!r}: it is a number of windows of 512 tokens, from 1 to 2048.",
                where=where,
                value=nsamples,
            )
        )
    return {
        "calibration": tuple(named_text(os.fspath(path)) for path in dataset or ()),
        "calibration_tokens": nsamples * SAMPLE,
    }


def _quantization(
    where: str,
    bits: int,
    group_size: int,
    compute_dtype: str | None,
    weight_dtype: str | None,
    scale_dtype: str | None,
    head: str | None,
    skipped: list[str] | None,
    algorithm: dict[str, Any],
) -> Quantization:
    """The recipe's quantization for the arguments that all classes have. Raises RecipeError."""
    one_of(f"{where}: bits", bits, (4, 8))
    one_of(f"{where}: scale_dtype", scale_dtype, (None, "fp16"))
    weight_dtype = weight_dtype or {4: "int4_clip", 8: "int8"}[bits]
    for module in skipped or ():
        one_of(f"{where}: llm_int8_skip_modules", module, ("lm_head", "output_layer"))
    quantization = Quantization(
        weight_dtype=weight_dtype,
        group_size=group_size,
        compute_dtype=compute_dtype or "fp32",
        head=head or ("none" if skipped else "int8"),
        **algorithm,
    )
    if quantization.bits != bits:
        raise RecipeError(
            _("{where}: weight_dtype {name} does not have {bits} bits.", where=where, name=weight_dtype, bits=bits)
        )
    return quantization
