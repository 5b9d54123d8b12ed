"""What a sweep measures unless it is told, and how a quantization is called in it."""

from itrex_chat.settings.quantization import Quantization

GRID = tuple(
    Quantization(weight_dtype=weight_dtype, group_size=group_size)
    for group_size in (32, 64, 128)
    for weight_dtype in ("int4_fullrange", "int4_clip")
) + (Quantization(head="int4"), Quantization(head="none"), Quantization(weight_dtype="int8"))


def label(quantization: Quantization) -> str:
    return (
        f"{quantization.weight_dtype}{'' if quantization.effective_budget else f' g{quantization.group_size}'} · head {quantization.head}"
        + ("" if quantization.effective_algorithm == "rtn" else f" · {quantization.algorithm}")
        + (f" · {quantization.budget:g} bits" if quantization.effective_budget else "")
        + ("" if quantization.compute_dtype == "int8" else f" · {quantization.compute_dtype}")
        + (f" · keeps {' '.join(map(str, quantization.keep_layers))}" if quantization.keep_layers else "")
    )
