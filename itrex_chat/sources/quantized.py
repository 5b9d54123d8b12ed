"""What a checkpoint that another program quantized says of itself: GPTQ, AWQ, AutoRound, compressed-tensors.

Layouts: https://github.com/AutoGPTQ/AutoGPTQ, https://github.com/casper-hansen/AutoAWQ, https://github.com/intel/auto-round,
https://github.com/vllm-project/compressed-tensors. How their integers lie is in `checkpoints/packed.py`.
"""

import re
from dataclasses import dataclass, field
from typing import Any

from itrex_chat.foundation.errors import CheckpointError
from itrex_chat.foundation.language import _

GPTQ, AWQ, COMPRESSED = "gptq", "awq", "compressed"  # layouts
BITS = (4, 8)
OLD_FILES = {"quantize_config.json": "gptq", "quant_config.json": "awq"}  # beside a config.json without a word of it
MOST_PARTS = 4  # of a pattern of modules
MOST_PATTERNS = 1000  # each is held against every module
KNOWN = "GPTQ, AWQ, AutoRound, compressed-tensors"
# AutoRound's packing formats: the layout, and what is added to its zero points.
PACKINGS = {
    "auto_round:auto_gptq": (GPTQ, 1),
    "auto_round:gptqmodel": (GPTQ, 0),
    "auto_round": (GPTQ, 0),
    "auto_round:auto_awq": (AWQ, 0),
    "auto_round:llm_compressor": (COMPRESSED, 0),
}


@dataclass(frozen=True)
class Method:
    """`name` for people; `layout` of the integers, of `bits` each unless `modules` says otherwise by a module's name, or
    `patterns` by what lies between the stars of one; `zero_offset` is added to zero points as they are stored."""

    name: str
    layout: str
    bits: int
    zero_offset: int = 0
    modules: dict[str, int] = field(default_factory=dict)
    patterns: tuple[tuple[tuple[str, ...], int], ...] = ()

    def bits_of(self, module: str) -> int:
        if module in self.modules:
            return self.modules[module]
        return next((bits for parts, bits in self.patterns if _matches(parts, module)), self.bits)


def method_of(settings: Any) -> Method:
    """What a `quantization_config` means. Raises CheckpointError for one whose integers are not read here."""
    if not isinstance(settings, dict):
        raise unreadable("?")
    kind = str(settings.get("quant_method") or ("compressed-tensors" if "config_groups" in settings else "?"))[:40]
    readers = {
        "gptq": _gptq,
        "awq": _awq,
        "auto-round": _auto_round,
        "auto_round": _auto_round,
        "intel/auto-round": _auto_round,
        "compressed-tensors": _compressed,
    }
    if kind not in readers:
        raise unreadable(kind)
    return readers[kind](settings)


def unreadable(kind: str) -> CheckpointError:
    """What is raised for a checkpoint that was quantized in a way that is not known."""
    return CheckpointError(
        _(
            "This checkpoint is already quantized ({method}), in a way that is not read here ({known} with 4 or 8 bits are); "
            "use the original one in float16, bfloat16 or float32.",
            method=kind,
            known=KNOWN,
        )
    )


def _gptq(settings: dict) -> Method:
    form = str(settings.get("checkpoint_format") or settings.get("format") or "gptq")
    if form not in ("gptq", "gptq_v2"):
        raise unreadable(f"gptq, {form[:40]}")
    return Method("GPTQ", GPTQ, _bits(settings.get("bits"), "gptq"), 1 if form == "gptq" else 0)


def _awq(settings: dict) -> Method:
    version = str(settings.get("version") or settings.get("format") or "gemm").lower()
    if version != "gemm":
        raise unreadable(f"awq, {version[:40]}")
    return Method("AWQ", AWQ, _bits(settings.get("bits", settings.get("w_bit")), "awq"))


def _auto_round(settings: dict) -> Method:
    form = str(settings.get("packing_format") or settings.get("backend") or "?")
    if form not in PACKINGS or settings.get("data_type", "int") != "int" or _activations(settings):
        raise unreadable(f"auto-round, {form[:40]}")
    layout, offset = PACKINGS[form]
    extra = settings.get("extra_config") or {}
    if not isinstance(extra, dict) or not all(isinstance(told, dict) for told in extra.values()):
        raise unreadable("auto-round, extra_config")
    own = _bits(settings.get("bits"), "auto-round")
    modules = {
        str(name): own if told.get("bits") is None else _bits(told["bits"], "auto-round", (*BITS, 16, 32))
        for name, told in extra.items()
    }
    patterns = [(parts, bits) for name, bits in modules.items() if 1 < len(parts := _parts(name)) <= MOST_PARTS]
    if len(patterns) > MOST_PATTERNS:
        raise unreadable("auto-round, extra_config")
    return Method("AutoRound", layout, own, offset, modules, tuple(patterns))


def _compressed(settings: dict) -> Method:
    form, groups = str(settings.get("format") or "?"), settings.get("config_groups")
    if form != "pack-quantized" or not isinstance(groups, dict) or not groups:
        raise unreadable(f"compressed-tensors, {form[:40]}")
    found = []
    for group in groups.values():
        weights = group.get("weights") if isinstance(group, dict) else None
        if not isinstance(weights, dict) or group.get("input_activations") or weights.get("type", "int") != "int":
            raise unreadable("compressed-tensors")
        found.append(_bits(weights.get("num_bits"), "compressed-tensors"))
    return Method("compressed-tensors", COMPRESSED, found[0])  # of the others the shapes tell


def _activations(settings: dict) -> bool:
    """Whether activations are quantized, too."""
    bits = settings.get("act_bits", 16)
    return type(bits) is not int or bits < 16


def _bits(found: Any, kind: str, possible: tuple[int, ...] = BITS) -> int:
    if type(found) is not int or found not in possible:
        raise unreadable(f"{kind}, bits={str(found)[:20]}")
    return found


def _parts(pattern: str) -> tuple[str, ...]:
    """What lies between the stars of a pattern; one part for a plain name. Only `.` and `.*` are read in it."""
    return tuple(re.split(r"\.?\*", pattern.replace("\\.", ".")))


def _matches(parts: tuple[str, ...], module: str) -> bool:
    """Whether a module's name has these parts in this order, the first at its beginning and the last at its end."""
    first, *middle, last = parts
    if not module.startswith(first):
        return False
    at = len(first)
    for part in middle:
        found = module.find(part, at)
        if found < 0:
            return False
        at = found + len(part)
    return len(module) - len(last) >= at and module.endswith(last)
