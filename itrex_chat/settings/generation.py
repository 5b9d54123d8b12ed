"""How tokens are chosen and when to stop."""

import math
from dataclasses import dataclass

from itrex_chat.foundation.errors import GenerationError
from itrex_chat.foundation.language import _

AUTO, NO_DRAFTS = "auto", "none"  # of `draft`


@dataclass(frozen=True)
class GenerationConfig:
    """Settings of one answer. Greedy unless `do_sample`.

    Names and values follow the GenerationConfig of ITREX's NeuralChat, except
    that `do_sample` is off, so that two variants of a model can be compared;
    `repetition_penalty` None is ITREX's 1.1 when sampling and 1.0 when greedy.
    `seed` makes a sampled answer repeatable. `top_k` 0 and `top_p` 1.0 are off.
    `prompt_lookup` lets text that repeats come several tokens at a time, and
    `draft` lets another model guess tokens; the answer is the same without
    them (`generation/lookup.py`, `generation/model_drafts.py`). `draft` is
    "none", "int4" or "int8" for the model quantized so, another model of the
    same vocabulary by its name, or "auto": INT4 for FP32 and BF16, where it is
    at hand and there is memory for both.
    """

    max_new_tokens: int = 256
    do_sample: bool = False
    temperature: float = 0.1
    top_k: int = 40
    top_p: float = 0.75
    repetition_penalty: float | None = None
    seed: int = 0
    prompt_lookup: bool = False
    draft: str = AUTO

    def __post_init__(self) -> None:
        whole = {"max_new_tokens": (1, 1 << 20), "top_k": (0, 1 << 20), "seed": (0, (1 << 63) - 1)}
        real = {"temperature": (0.0, 100.0), "top_p": (0.0, 1.0), "repetition_penalty": (0.01, 100.0)}
        for name, (low, high) in (whole | real).items():
            value = getattr(self, name)
            if value is None and name == "repetition_penalty":
                continue
            kinds = (int,) if name in whole else (int, float)
            if (
                isinstance(value, bool)
                or not isinstance(value, kinds)
                or not math.isfinite(value)
                or not low <= value <= high
            ):
                raise GenerationError(
                    _(
                        "{name} cannot be {value!r}: it is a number from {low} to {high}.",
                        name=name,
                        value=value,
                        low=low,
                        high=high,
                    )
                )
        for name in ("do_sample", "prompt_lookup"):
            if not isinstance(getattr(self, name), bool):
                raise GenerationError(
                    _("{name} is true or false, not {value!r}.", name=name, value=getattr(self, name))
                )

        if not isinstance(self.draft, str) or not self.draft:
            raise GenerationError(
                _("draft is auto, none, int4, int8 or the name of a model, not {value!r}.", value=self.draft)
            )
        if self.prompt_lookup and self.draft not in (AUTO, NO_DRAFTS):
            raise GenerationError(
                _("prompt_lookup and draft {name} both guess tokens; choose one of them.", name=self.draft)
            )

    @property
    def effective_repetition_penalty(self) -> float:
        if self.repetition_penalty is not None:
            return self.repetition_penalty
        return 1.1 if self.do_sample else 1.0
