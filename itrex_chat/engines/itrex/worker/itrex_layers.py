"""ITREX's quantized layers: their integers and scales read out, and filled from an artifact.

The packed form of QBits depends on the processor and cannot be relied on to
load again; integers [in, out] and scales [in/group, out] can, and packing them
gives a layer that multiplies with the same weights, bit for bit.
"""

import json
import os

import torch
from intel_extension_for_transformers import qbits
from intel_extension_for_transformers.transformers.llm.quantization.nn.modules import ParamsQBits, QuantizedLinearQBits
from safetensors import safe_open
from safetensors.torch import save_file

BLOCKSIZE, SCALES = 1, 9  # what `acquire_packed_weight_info` can be asked for


def keep(model, path):
    """Write what ITREX quantized to `path`: for each layer `NAME.integers` int8 [in, out] and `NAME.scales` float32.

    Returns the group size and weight type of each.
    """
    tensors, layers = {}, {}
    for name, layer in _quantized(model):
        groups = -(-layer.in_features // layer.blocksize)
        scales = qbits.acquire_packed_weight_info(layer.weight, SCALES).reshape(-1, layer.out_features)[:groups]
        tensors[name + ".integers"] = _integers(layer, scales)
        tensors[name + ".scales"] = scales.contiguous()
        layers[name] = {"group_size": layer.blocksize, "weight_dtype": layer.weight_dtype}
    save_file(tensors, path)
    return layers


def _integers(layer, scales):
    """int8 [in, out]: the weights divided by their scales, which gives whole numbers."""
    weights = torch.empty(layer.in_features, layer.out_features)
    qbits.dequantize_packed_weight(
        layer.weight, weights, False, layer.compute_dtype, layer.weight_dtype, layer.scale_dtype
    )
    divisors = torch.where(scales == 0, torch.ones_like(scales), scales)
    return (weights / divisors.repeat_interleave(layer.blocksize, 0)[: layer.in_features]).round_().to(torch.int8)


def _opened(path):
    """A file of tensors, by its descriptor: safetensors takes no name that is not UTF-8, which a locale may have."""
    handle = os.open(path, os.O_RDONLY)
    try:
        return safe_open(f"/proc/self/fd/{handle}", "pt")
    finally:
        os.close(handle)


def fill(model, folder, artifact, matrices, quantization, own):
    """Give the model ITREX's layers with the artifact's integers, and the `folder`'s other tensors.

    `own` is a file with ITREX's own scales and, where they differ, integers.
    """
    homes, bits = _homes(artifact), quantization["bits"]

    def stored(name):
        with _opened(os.path.join(artifact, homes[name])) as file:  # whose pages go with the tensor
            return file.get_tensor(name)

    replaced = _opened(own) if own else None
    replacements = set(replaced.keys()) if own else ()
    with _opened(os.path.join(folder, "rest.safetensors")) as rest:
        for name in rest.keys():  # noqa: SIM118  a safe_open has keys but is not iterable
            _assign(model, name, rest.get_tensor(name).float())
    model.tie_weights()
    for name, rows in matrices.items():
        module, group = rows["module"], rows["group"]
        if name + ".integers" in replacements:
            integers, scales = replaced.get_tensor(name + ".integers"), replaced.get_tensor(name + ".scales")
            group = quantization["group_size"]
        elif module + ".qweight" in homes:
            part = slice(rows["first"], rows["first"] + rows["count"])
            integers = _sorted(unpacked(stored(module + ".qweight")[:, part], bits), rows)
            scales = _sorted(stored(module + ".scales")[:, part].float(), rows)
        else:  # kept as it was stored
            weight = stored(module + ".weight")[rows["first"] : rows["first"] + rows["count"]]
            _assign(model, name + ".weight", _sorted(weight.t(), rows).t().float().contiguous())
            continue
        _replace(
            model, name, layer(integers, scales, group, bits, quantization["compute_dtype"], _of(model, name).bias)
        )


def layer(integers, scales, group, bits, compute_dtype, bias):
    """ITREX's layer for integers int8 [in, out] and scales float32 [in/group, out]."""
    inputs, outputs = integers.shape
    kind = "int4_clip" if bits == 4 else "int8"
    none = torch.empty(0, dtype=torch.int8)
    packed = qbits.repack_quantized_weight(
        integers.contiguous(), scales.contiguous(), none, none.int(), kind, "fp32", compute_dtype, False, group
    )
    with torch.device("meta"):
        made = QuantizedLinearQBits(
            inputs,
            outputs,
            bias is not None,
            compute_dtype=compute_dtype,
            weight_dtype=kind,
            scale_dtype="fp32",
            blocksize=group,
            scheme="sym",
            compress_statistics=False,
        )
    made.weight = ParamsQBits(
        data=packed,
        requires_grad=False,
        quant_state={"scheme": "sym"},
        blocksize=group,
        compress_statistics=False,
        quant_dtype=kind,
        scale_dtype="fp32",
    )
    if bias is not None:
        made.bias = torch.nn.Parameter(bias.data.half().float(), requires_grad=False)  # ITREX rounds it on its way, too
    return made.eval()


def unpacked(words, bits):
    """int8 [in, out] of GPTQ's `qweight`, int32 [in * bits / 32, out]."""
    count = 32 // bits
    integers = torch.empty(words.shape[0] * count, words.shape[1], dtype=torch.int8)
    for place in range(count):
        integers[place::count] = ((words >> (bits * place)) & ((1 << bits) - 1)) - (1 << (bits - 1))
    return integers


def _sorted(columns, rows):
    return columns[:, rows["order"]] if rows["order"] else columns


def _homes(artifact):
    with open(os.path.join(artifact, "manifest.json"), encoding="utf-8") as manifest:
        return json.load(manifest)["tensors"]


def _quantized(model):
    return [(name, module) for name, module in model.named_modules() if isinstance(module, QuantizedLinearQBits)]


def _of(model, name):
    for part in name.split("."):
        model = getattr(model, part)
    return model


def _replace(model, name, module):
    parent, _dot, last = name.rpartition(".")
    setattr(_of(model, parent), last, module)


def _assign(model, name, tensor):
    parent, _dot, last = name.rpartition(".")
    setattr(_of(model, parent), last, torch.nn.Parameter(tensor, requires_grad=False))
