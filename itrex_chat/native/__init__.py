"""The native kernels in C, through ctypes. `library()` has their functions, `missing()` says why there are none.

They run in threads of their own (`native/team.c`), which wait so that a busy
machine does not hurt. ITREX_CHAT_INSTRUCTIONS chooses the instructions: portable,
avx2, avx_vnni, avx512 or amx; without it, the best that the processor has.
"""

import ctypes
import functools
import importlib.machinery
import os
from ctypes import POINTER, Structure, c_char_p, c_float, c_int, c_int32, c_int64, c_size_t, c_void_p
from pathlib import Path

import torch

from itrex_chat.foundation.choices import one_of
from itrex_chat.foundation.errors import KernelError
from itrex_chat.foundation.language import _
from itrex_chat.native.built_from import digest

FORMATS = {"fp32": 0, "bf16": 1, "fp16": 2, "int4": 3, "int8": 4, "int4_zeros": 5}
COMPUTE = {"int8": 0, "bf16": 1, "fp32": 2}
INSTRUCTIONS = ("portable", "avx2", "avx_vnni", "avx512", "amx")
KEPT = {"fp32": FORMATS["fp32"], "fp16": FORMATS["fp16"], "int8": FORMATS["int8"]}  # keys and values
NO_MEMORY, REFUSED = 1, 2  # what functions of the library give; 0 where it is done
FEW_ROWS = 16  # rows that are few with every kernel
STEP_ROWS = 64  # rows that a step takes at most


class Linear(Structure):
    """`Linear` of native.h."""


Linear._fields_ = [
    *((name, c_int32) for name in ("format", "compute", "inputs", "outputs", "group", "piece")),
    ("weight", c_void_p),
    ("bias", c_void_p),
    ("next", POINTER(Linear)),
    ("stream", c_void_p),
]


class Layer(Structure):
    """`Layer` of native.h."""

    _fields_ = [
        *(
            (name, c_void_p)
            for name in (
                "attention_norm",
                "mlp_norm",
                "query_norm",
                "key_norm",
                "after_attention_norm",
                "after_mlp_norm",
            )
        ),
        *((name, POINTER(Linear)) for name in ("qkv", "output", "gate_up", "down")),
        ("window", c_int64),
    ]


class Model(Structure):
    """`Model` of native.h."""

    _fields_ = [
        *(
            (name, c_int32)
            for name in (
                "layers",
                "hidden",
                "inner",
                "heads",
                "kv_heads",
                "head_dim",
                "rotated",
                "interleaved",
                "vocabulary",
            )
        ),
        ("eps", c_float),
        ("layer", POINTER(Layer)),
        ("norm", c_void_p),
        ("head", POINTER(Linear)),
    ]


class Cache(Structure):
    """`Cache` of native.h."""

    _fields_ = [
        *((name, c_void_p) for name in ("pool", "pages")),
        *((name, c_int64) for name in ("sequences", "each", "count", "bytes")),
        ("format", c_int32),
    ]


class Piece(Structure):
    """`Piece` of stream.c."""

    _fields_ = [
        *((name, c_int32) for name in ("file", "format", "direct", "reserved")),
        *((name, c_int64) for name in ("start", "bytes", "begin", "count", "back")),
        ("to", c_void_p),
    ]


_FUNCTIONS = {
    "itrex_sources": (c_char_p, []),
    "itrex_choose": (c_int, [c_char_p]),
    "itrex_level": (c_char_p, []),
    "itrex_packed_bytes": (c_size_t, [POINTER(Linear)]),
    "itrex_pack": (c_int, [POINTER(Linear), c_void_p, c_int64, c_void_p, c_void_p, c_int64, c_int, c_int, c_int]),
    "itrex_unpack": (c_int, [POINTER(Linear), c_void_p, c_int]),
    "itrex_product": (c_int, [POINTER(Linear), c_int, c_void_p, c_size_t, c_void_p, c_size_t, c_int]),
    "itrex_rows_alike": (c_int, [POINTER(Linear)]),
    "itrex_gated_product": (c_int, [POINTER(Linear), c_int, c_void_p, c_size_t, c_void_p, c_void_p, c_int]),
    "itrex_attention": (c_int, [POINTER(Model), POINTER(Cache), c_int, c_int, *[c_void_p] * 6, c_int]),
    "itrex_rms_norm": (None, [c_void_p, c_void_p, c_int, c_int, c_float, c_void_p, c_int]),
    "itrex_add": (None, [c_void_p, c_int, c_int, c_void_p, c_int]),
    "itrex_swiglu": (None, [c_void_p, c_int, c_int, c_void_p, c_int]),
    "itrex_nearest": (c_int, [c_int, c_int, c_int, c_void_p, c_void_p, c_int, c_int, c_void_p, c_int]),
    "itrex_search": (
        c_int,
        [c_int, c_int, c_int, c_void_p, c_void_p, c_int, c_int, c_void_p, c_int, c_int, c_void_p, c_int],
    ),
    "itrex_map": (c_int, [c_int, c_size_t, POINTER(c_void_p)]),
    "itrex_unmap": (None, [c_int]),
    "itrex_lost": (c_int, [c_int]),
    "itrex_finite": (c_int, [c_void_p, c_int, c_size_t, c_int]),
    "itrex_touch": (None, [c_void_p, c_size_t, c_int]),
    "itrex_stream": (c_void_p, [POINTER(Piece), c_int]),
    "itrex_stream_end": (None, [c_void_p]),
    "itrex_stream_told": (None, [c_void_p, POINTER(c_int64)]),
    "itrex_enter": (None, [c_void_p, c_int]),
    "itrex_leave": (None, [c_void_p, c_int, c_int]),
    "itrex_step_bytes": (c_size_t, [POINTER(Model), c_int, c_int64, c_int]),
    "itrex_step": (c_int, [POINTER(Model), POINTER(Cache), c_int, *[c_void_p] * 5, c_int, *[c_void_p] * 3, c_int]),
}


def library() -> ctypes.CDLL:
    """The functions of native.h. Raises KernelError where there are none."""
    found = _load()
    if isinstance(found, str):
        raise KernelError(_("The native kernels are not there: {reason}.", reason=found))
    return found


def missing() -> str | None:
    """Why the kernels cannot run here, or None."""
    found = _load()
    return found if isinstance(found, str) else None


def instructions() -> str:
    """The instructions in use, one of INSTRUCTIONS. Raises KernelError for a choice that cannot be had."""
    wanted, loaded = os.environ.get("ITREX_CHAT_INSTRUCTIONS", ""), library()
    if wanted:
        one_of("ITREX_CHAT_INSTRUCTIONS", wanted, INSTRUCTIONS, KernelError)
    if loaded.itrex_choose(wanted.encode()):
        raise KernelError(
            _(
                "This processor does not have the instructions {name} that ITREX_CHAT_INSTRUCTIONS asks for.",
                name=wanted,
            )
        )
    return loaded.itrex_level().decode()


def check(result: int) -> None:
    """Raise MemoryError or KernelError where a function of the library did not do what it was asked for."""
    if result == NO_MEMORY:
        raise MemoryError
    if result:
        raise KernelError(_("The native kernels refuse a product or a pass whose sizes do not fit together."))


def product(linear: Linear, x: torch.Tensor, out: torch.Tensor) -> torch.Tensor:
    """x, float32 [rows, in], times a matrix transposed, with its bias, in `out`, float32 [rows, out], whose rows may lie apart."""
    if x.shape[1] != linear.inputs:
        raise ValueError(f"activations of {x.shape[1]} values for a matrix of {linear.inputs} inputs")
    x = x.contiguous()
    arguments = x.shape[0], x.data_ptr(), x.shape[1], out.data_ptr(), out.stride(0), torch.get_num_threads()
    check(library().itrex_product(ctypes.byref(linear), *arguments))
    return out


def rows_alike(linear: Linear) -> int | None:
    """How many rows `product` may have so that each is, bit for bit, what it is alone; None for any number."""
    return library().itrex_rows_alike(ctypes.byref(linear)) or None


def search(
    weight: torch.Tensor,
    counts: torch.Tensor | None,
    group_size: int,
    low: int,
    high: int,
    factors: torch.Tensor,
    refits: int,
) -> torch.Tensor:
    """The scales, float32 [rows, in/group_size], that `quantization.search` looks for: for weights float32 [rows, in] that
    count as `counts` [in] says (None: all the same), among the candidates that `factors` are times a group's largest."""
    rows, width = weight.shape
    scales = torch.empty(rows, width // group_size)
    arguments = factors.data_ptr(), len(factors), refits, scales.data_ptr(), torch.get_num_threads()
    counted = address(None if counts is None else counts.contiguous())
    check(library().itrex_search(rows, width, group_size, weight.data_ptr(), counted, low, high, *arguments))
    return scales


def nearest(weight: torch.Tensor, scales: torch.Tensor, group_size: int, low: int, high: int) -> torch.Tensor:
    """The nearest integers, int8 [rows, in], of weights float32 [rows, in] with these scales, float32 [rows, in/group_size]."""
    rows, width = weight.shape
    integers = torch.empty(rows, width, dtype=torch.int8)
    arguments = weight.data_ptr(), scales.data_ptr(), low, high, integers.data_ptr(), torch.get_num_threads()
    check(library().itrex_nearest(rows, width, group_size, *arguments))
    return integers


def finite(tensor: torch.Tensor) -> bool:
    """Whether all values of a contiguous tensor of floats are finite numbers; reads at the speed of memory."""
    kind = {torch.float32: "fp32", torch.bfloat16: "bf16", torch.float16: "fp16"}[tensor.dtype]
    return bool(library().itrex_finite(tensor.data_ptr(), FORMATS[kind], tensor.numel(), torch.get_num_threads()))


def bring(tensor: torch.Tensor) -> None:
    """Have a contiguous tensor in a mapped file brought into memory."""
    library().itrex_touch(tensor.data_ptr(), tensor.nbytes, torch.get_num_threads())


def address(tensor: torch.Tensor | None) -> int | None:
    return None if tensor is None else tensor.data_ptr()


@functools.cache
def _load() -> ctypes.CDLL | str:
    """The library, or the reason why there is none."""
    path = next(
        (
            path
            for suffix in importlib.machinery.EXTENSION_SUFFIXES
            if (path := Path(__file__).with_name(f"_kernels{suffix}")).exists()
        ),
        None,
    )
    if path is None:
        return _(
            "they were not built when the program was installed, which takes a C compiler (Debian, Ubuntu: apt "
            "install gcc) and installing again"
        )
    try:
        loaded = ctypes.CDLL(str(path))
        for name, (result, arguments) in _FUNCTIONS.items():
            function = getattr(loaded, name)
            function.restype, function.argtypes = result, arguments
    except AttributeError:  # a function is not there
        return _stale(path)
    except OSError as error:
        return _("{path} cannot be loaded ({reason})", path=path, reason=" ".join(str(error).split())[:200])
    built, here = loaded.itrex_sources().decode(), digest(path.parent)
    return loaded if not built or not here or built == here else _stale(path)


def _stale(path: Path) -> str:
    return _(
        "{path} was built from other sources than those of this version, as after an upgrade without a build; install "
        "the program again (pip install .), or build them anew in a checkout: python setup.py build_ext --inplace",
        path=path,
    )
