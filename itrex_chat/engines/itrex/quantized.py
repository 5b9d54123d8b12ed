"""What ITREX's quantization of a model was: the type that records and reports carry."""

from dataclasses import dataclass, field
from typing import Any

from itrex_chat.foundation.language import _
from itrex_chat.foundation.units import readable

FORMAT = 2


@dataclass(frozen=True)
class Saved:
    """What ITREX quantized, how that compares with this program's integers and scales, and what later starts load.

    Seconds and bytes. `made` is the weight type that ITREX chose for `asked`; "" where it did not quantize itself, for
    the reason in `skipped`. `different` integers of `integers`, and the largest relative difference of scales, are
    against this program's quantization to `made`.
    """

    itrex: str
    asked: str
    compute_dtype: str
    made: str = ""
    skipped: str = ""
    build_seconds: float | None = None
    build_memory: int | None = None
    log: list[str] = field(default_factory=list)
    layers: int = 0
    integers: int = 0
    different: int = 0
    scale_difference: float = 0.0
    tokens_equal: bool | None = None  # of the saved model and of the one that ITREX quantized
    own: str = ""  # SHA-256 of the file with ITREX's own integers and scales, where they differ
    format: int = FORMAT

    @classmethod
    def from_record(cls, values: Any) -> "Saved | None":
        """What was written as a dict, by this version of the program; None for anything else."""
        try:
            saved = cls(**values)
        except TypeError:
            return None
        return saved if saved.format == FORMAT and (not saved.made or saved.build_seconds is not None) else None


def sentences(saved: Saved) -> list[str]:
    """What a person wants to know about it."""
    if not saved.made:
        return [_("not quantized by ITREX {version} itself. {reason}", version=saved.itrex, reason=saved.skipped)]
    scales = (
        _("its scales are the same")
        if saved.scale_difference == 0
        else _("its scales differ by at most {share:.2g} of their size", share=saved.scale_difference)
    )
    lines = [
        _(
            "quantized once by ITREX {version} in {seconds:.1f} s, peak memory {memory}. Of its {made} integers, {different} of "
            "{integers} in {layers} layers differ from this program's; {scales}.",
            version=saved.itrex,
            seconds=saved.build_seconds,
            memory=readable(saved.build_memory or 0),
            made=saved.made,
            different=saved.different,
            integers=saved.integers,
            layers=saved.layers,
            scales=scales,
        )
    ]
    lines.append(_("Its head is not quantized: it and the embedding are in FP32."))
    if saved.own:
        lines.append(_("Its own integers and scales are kept, and later starts use them."))
    if saved.made != saved.asked:
        lines.append(
            _(
                "ITREX {version} makes {made} where {asked} is asked for; its layers answer with the {asked} integers of this "
                "program's artifact.",
                version=saved.itrex,
                made=saved.made,
                asked=saved.asked,
            )
        )
    elif saved.tokens_equal is not None:
        lines.append(
            _("The saved model gave the same tokens as the one that ITREX quantized.")
            if saved.tokens_equal
            else _("The saved model gave other tokens than the one that ITREX quantized.")
        )
    return lines
