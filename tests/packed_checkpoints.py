"""Checkpoints in the layouts of GPTQ, AWQ, AutoRound and compressed-tensors, packed here value by value from random integers.

What a matrix is, `Truth` says: W[o, i] = (integers[o, i] - zeros[o, g]) · scales[o, g], g the group of the input i.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file, save_file

AWQ_PLACES = (0, 4, 1, 5, 2, 6, 3, 7)  # where in a word each of 8 neighbouring outputs lies, counted in fours of bits
WIDE = {"hidden_size": 128, "intermediate_size": 256, "head_dim": 32}


@dataclass
class Truth:
    """`order`: the group of each input, where these are not simply one behind the other."""

    integers: np.ndarray
    zeros: np.ndarray
    scales: np.ndarray
    order: np.ndarray

    @property
    def weights(self) -> np.ndarray:
        centred = self.integers.astype(np.float32) - self.zeros[:, self.order].astype(np.float32)
        return centred * self.scales[:, self.order].astype(np.float32)


def of(weight: np.ndarray, group: int, symmetric: bool, shuffled: bool, bits: int = 4, least: int = 0) -> Truth:
    """A matrix rounded to integers of `bits`; zero points of `least` to 2^bits - 2."""
    random = np.random.default_rng(weight.size)
    outputs, inputs = weight.shape
    order = np.arange(inputs) // group
    if shuffled:
        random.shuffle(order)
    top, groups = (1 << bits) - 1, inputs // group
    zeros = np.full((outputs, groups), 1 << (bits - 1))
    if not symmetric:
        zeros = random.integers(least, top, (outputs, groups))
    spread = np.stack([np.abs(weight[:, order == g]).max(1) for g in range(groups)], 1)
    scales = (spread / (1 << (bits - 1))).astype(np.float16)
    integers = np.rint(weight / scales[:, order].astype(np.float32)) + zeros[:, order]
    return Truth(integers.clip(0, top).astype(np.int64), zeros, scales, order)


def words(values: np.ndarray, bits: int, places: tuple[int, ...] = tuple(range(8))) -> np.ndarray:
    """int32 words of neighbours in a row; the value k of a word lies at place `places[k]`."""
    rows, columns = values.shape
    per_word = 32 // bits
    padded = np.zeros((rows, -(-columns // per_word) * per_word), np.uint64)
    padded[:, :columns] = values
    found = np.zeros((rows, padded.shape[1] // per_word), np.uint64)
    for k in range(per_word):
        found |= padded[:, k::per_word] << np.uint64(bits * places[k])
    return found.astype(np.uint32).view(np.int32)


def gptq(name: str, truth: Truth, bits: int = 4, less: int = 1) -> dict[str, np.ndarray]:
    return {
        f"{name}.qweight": words(truth.integers, bits).T.copy(),
        f"{name}.qzeros": words(truth.zeros.T - less, bits),
        f"{name}.scales": truth.scales.T.copy(),
        f"{name}.g_idx": truth.order.astype(np.int32),
    }


def awq(name: str, truth: Truth, bits: int = 4) -> dict[str, np.ndarray]:
    return {
        f"{name}.qweight": words(truth.integers.T, bits, AWQ_PLACES),
        f"{name}.qzeros": words(truth.zeros.T, bits, AWQ_PLACES),
        f"{name}.scales": truth.scales.T.copy(),
    }


def compressed(name: str, truth: Truth, bits: int = 4) -> dict[str, np.ndarray]:
    found = {
        f"{name}.weight_packed": words(truth.integers, bits),
        f"{name}.weight_scale": truth.scales,
        f"{name}.weight_shape": np.array(truth.integers.shape, np.int64),
    }
    if (truth.zeros != 1 << (bits - 1)).any():
        found[f"{name}.weight_zero_point"] = words(truth.zeros.T, bits).T.copy()
    return found


def without_g_idx(pack: Callable, name: str, truth: Truth, bits: int = 4, **more) -> dict[str, np.ndarray]:
    return {key: value for key, value in pack(name, truth, bits, **more).items() if not key.endswith("g_idx")}


KINDS: dict[str, tuple[Callable[..., dict[str, np.ndarray]], Callable[[int], dict]]] = {
    "gptq": (
        gptq,
        lambda group: {"quant_method": "gptq", "bits": 4, "group_size": group, "desc_act": False, "sym": True},
    ),
    "gptq_v2": (
        lambda name, truth: gptq(name, truth, less=0),
        lambda group: {"quant_method": "gptq", "bits": 4, "group_size": group, "checkpoint_format": "gptq_v2"},
    ),
    "awq": (
        awq,
        lambda group: {
            "quant_method": "awq",
            "bits": 4,
            "group_size": group,
            "zero_point": True,
            "version": "gemm",
            "modules_to_not_convert": None,
        },
    ),
    "auto_round:auto_gptq": (
        lambda name, truth: without_g_idx(gptq, name, truth),
        lambda group: {
            "quant_method": "auto-round",
            "packing_format": "auto_round:auto_gptq",
            "bits": 4,
            "group_size": group,
            "data_type": "int",
            "extra_config": {"lm_head": {"bits": 16}},
        },
    ),
    "auto_round": (
        lambda name, truth: without_g_idx(gptq, name, truth, less=0),
        lambda group: {"quant_method": "auto-round", "packing_format": "auto_round", "bits": 4, "group_size": group},
    ),
    "auto_round:auto_awq": (
        awq,
        lambda group: {"quant_method": "auto-round", "packing_format": "auto_round:auto_awq", "bits": 4, "sym": False},
    ),
    "compressed-tensors": (
        compressed,
        lambda group: {
            "quant_method": "compressed-tensors",
            "format": "pack-quantized",
            "config_groups": {
                "group_0": {
                    "targets": ["Linear"],
                    "weights": {"num_bits": 4, "type": "int", "strategy": "group", "group_size": group},
                }
            },
            "ignore": ["lm_head"],
        },
    ),
}


MINUS_ONE = ("gptq", "auto_round:auto_gptq")  # kinds that store zero points less one, and have no word for zero


def write(
    original: Path,
    folder: Path,
    kind: str,
    group: int = 64,
    symmetric: bool = True,
    shuffled: bool = False,
    bias: bool = False,
) -> dict[str, Truth]:
    """`original`, a folder by transformers, with the matrices of its blocks packed; what each of these is, by its module."""
    pack, settings = KINDS[kind]
    folder.mkdir(parents=True, exist_ok=True)
    for file in original.iterdir():
        if file.suffix == ".json":
            (folder / file.name).write_bytes(file.read_bytes())
    found, truths = {}, {}
    for name, tensor in load_file(original / "model.safetensors").items():
        module = name.removesuffix(".weight")
        if ".layers." in name and tensor.ndim == 2:
            truths[module] = of(tensor.astype(np.float32), group, symmetric, shuffled, least=kind in MINUS_ONE)
            found |= pack(module, truths[module])
            if bias:
                found.setdefault(f"{module}.bias", np.zeros(len(tensor), np.float16))
        elif ".layers." not in name or not bias or not name.endswith("bias"):
            found[name] = tensor.astype(np.float16)
    save(folder, found, settings(group))
    return truths


def save(folder: Path, tensors: dict[str, np.ndarray], quantization: dict | None) -> None:
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    config = json.loads((folder / "config.json").read_text("utf-8"))
    config.pop("quantization_config", None)
    if quantization:
        config["quantization_config"] = quantization
    (folder / "config.json").write_text(json.dumps(config), "utf-8")
