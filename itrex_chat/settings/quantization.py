"""The recipe's section `quantization`: which integers and scales, and who finds them."""

import os
from dataclasses import dataclass
from pathlib import Path

from itrex_chat.foundation.choices import one_of, whole_within
from itrex_chat.foundation.errors import RecipeError
from itrex_chat.foundation.language import _
from itrex_chat.foundation.places import expanded

WEIGHT_DTYPES = {"int4_fullrange": 4, "int4_clip": 4, "int8": 8}
ALGORITHMS = ("rtn", "search", "importance", "awq", "autoround", "gptq")
CALIBRATED = ("importance", "awq", "autoround", "gptq")  # those that go by the inputs that texts give
CALIBRATION_TOKENS = 65536  # 128 windows
LEAST_CALIBRATION_TOKENS, MOST_CALIBRATION_TOKENS = 512, 1 << 20
ITERATIONS = 200
MOST_ITERATIONS = 10000
GROUP_SIZES = (32, 64, 128)
HEADS = ("int8", "int4", "none")
INTEGERS = ("auto", "stored", "new")
COMPUTE_DTYPES = ("int8", "bf16", "fp32")
LEAST_BUDGET, MOST_BUDGET = 4.125, 16.0  # bits per weight: groups of 128 everywhere, and 16 bits
ANSWERS = "answers:"  # in front of the folder of a run whose FP32 answers are calibrated on


def named_text(name: str, folder: Path = Path()) -> str:
    """What is calibrated on, a text or a run, by its place on this machine, as seen from a folder."""
    prefix = ANSWERS if name.startswith(ANSWERS) else ""
    return prefix + os.path.abspath(folder / expanded(name.removeprefix(prefix)))


@dataclass(frozen=True)
class Quantization:
    """Weight-only quantization of the linear layers.

    `weight_dtype` int4_fullrange, int4_clip or int8; `group_size` weights of
    one row share a scale; `head` is the output projection's precision;
    `compute_dtype` is what activations are multiplied in and does not change
    the artifact. `keep_layers` are decoder blocks, counted from 0, whose
    matrices stay as they are stored. `integers` says whose are taken where a
    checkpoint has some: those that are "stored", or "new" ones; "auto" is
    "stored" for GPTQ, AWQ and their like with as many bits, else "new".
    `algorithm` finds the integers and scales of 4 bits: "rtn" rounds to nearest, "search" looks for the scales that lose
    least, "importance" weighs what is lost by the inputs that texts give, "awq" does so when large inputs were divided, "gptq"
    makes up for each weight's error with the weights behind it, "autoround" learns which way weights are rounded, in `iterations`
    steps for each block. `calibration` are these texts' files or runs ("answers:FOLDER"), () the program's own, of which
    `calibration_tokens` are read.
    With a `budget` of bits per weight, each matrix of the blocks gets group sizes, 8 bits or what it is stored as, as texts say
    that it pays; `group_size` is the head's then. 0 is none.
    """

    weight_dtype: str = "int4_fullrange"
    group_size: int = 32
    head: str = "int8"
    compute_dtype: str = "int8"
    keep_layers: tuple[int, ...] = ()
    integers: str = "auto"
    algorithm: str = "rtn"
    calibration: tuple[str, ...] = ()
    calibration_tokens: int = CALIBRATION_TOKENS
    iterations: int = ITERATIONS
    budget: float = 0.0

    @property
    def bits(self) -> int:
        return WEIGHT_DTYPES[self.weight_dtype]

    @property
    def effective_algorithm(self) -> str:
        """The algorithm that makes a difference: 8 bits are rounded to nearest."""
        return self.algorithm if self.bits == 4 else "rtn"

    @property
    def calibrated(self) -> bool:
        """Whether the algorithm goes by what texts give."""
        return self.effective_algorithm in CALIBRATED

    @property
    def effective_budget(self) -> float:
        """The budget that makes a difference: it is one of 4 bits. 0 is none."""
        return self.budget if self.bits == 4 else 0.0

    @property
    def reads_texts(self) -> bool:
        return self.calibrated or self.effective_budget > 0

    def __post_init__(self) -> None:
        one_of("quantization.weight_dtype", self.weight_dtype, tuple(WEIGHT_DTYPES))
        one_of("quantization.group_size", self.group_size, GROUP_SIZES)
        one_of("quantization.head", self.head, HEADS)
        one_of("quantization.compute_dtype", self.compute_dtype, COMPUTE_DTYPES)
        one_of("quantization.integers", self.integers, INTEGERS)
        if any(type(number) is not int or number < 0 for number in self.keep_layers):
            raise RecipeError(
                _(
                    "quantization.keep_layers must be numbers of layers from 0 on, such as [0, 23], not {value!r}.",
                    value=list(self.keep_layers),
                )
            )
        one_of("quantization.algorithm", self.algorithm, ALGORITHMS)
        if any(type(path) is not str or not path for path in self.calibration):
            raise RecipeError(
                _(
                    "quantization.calibration must be names of text files, such as [book.txt], not {value!r}.",
                    value=list(self.calibration),
                )
            )
        if self.budget != 0 and not LEAST_BUDGET <= self.budget <= MOST_BUDGET:
            raise RecipeError(
                _(
                    "quantization.budget cannot be {value!r}: it is a number of bits per weight from {least} to {most:g}, or 0 "
                    "for none.",
                    value=self.budget,
                    least=LEAST_BUDGET,
                    most=MOST_BUDGET,
                )
            )
        if self.calibration and self.algorithm not in CALIBRATED and not self.budget:
            raise RecipeError(
                _(
                    "quantization.calibration is for the algorithms {names}, and for quantization.budget; {algorithm} reads no "
                    "texts.",
                    names=", ".join(CALIBRATED),
                    algorithm=self.algorithm,
                )
            )
        whole_within(
            "quantization.calibration_tokens",
            self.calibration_tokens,
            LEAST_CALIBRATION_TOKENS,
            MOST_CALIBRATION_TOKENS,
        )
        whole_within("quantization.iterations", self.iterations, 1, MOST_ITERATIONS)
