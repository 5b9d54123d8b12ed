"""A decoder with random INT4 weights in the shape of a known model: nothing is downloaded, quantized or written."""

import dataclasses

import torch

from itrex_chat.architecture.config import DecoderConfig, from_transformers
from itrex_chat.architecture.layout import tensors
from itrex_chat.decoder.linear import QuantizedLinear
from itrex_chat.decoder.loading import load_decoder
from itrex_chat.decoder.model import Decoder
from itrex_chat.kernels import KERNELS
from itrex_chat.kernels.native import NativeWeight
from itrex_chat.native import large_pages
from itrex_chat.quantization.tensor import QuantizedTensor
from measuring.dense import COMMON, SHAPES

GROUP = 32
SMALL = {  # little to compute, and 131 kB of keys and values for each token
    "model_type": "qwen3",
    "hidden_size": 512,
    "intermediate_size": 1024,
    "num_hidden_layers": 8,
    "num_attention_heads": 16,
    "num_key_value_heads": 16,
    "head_dim": 128,
    "vocab_size": 4096,
    "max_position_embeddings": 32768,
}


class RandomWeights:
    """Parts of a decoder; matrices of one shape have the same values, each in memory of its own."""

    def __init__(self, config: DecoderConfig):
        self.config, self._draw = config, torch.Generator().manual_seed(0)
        self._specs = {spec.name: spec for spec in tensors(config)}
        self._packed: dict[tuple[int, int, int], NativeWeight] = {}

    def vector(self, name: str) -> torch.Tensor:
        return torch.ones(self._specs[name].shape)

    def embedding(self, name: str) -> torch.Tensor:
        rows, columns = self._specs[name].shape
        some = torch.randn(256, columns, generator=self._draw).half()
        return some[torch.arange(rows) % 256] if rows * columns < 1 << 26 else some[:1].expand(rows, columns)

    def linear(self, names: list[str]) -> QuantizedLinear:
        shapes = [self._specs[f"{name}.weight"].shape for name in names]
        outputs, inputs, bits = sum(shape[0] for shape in shapes), shapes[0][1], 8 if "lm_head" in names else 4
        packed = self._packed.setdefault((outputs, inputs, bits), self._random(outputs, inputs, bits))
        own = large_pages.zeros(packed.blob.nbytes, dtype=torch.uint8)
        own.copy_(packed.blob)
        biases = [f"{name}.bias" for name in names if f"{name}.bias" in self._specs]
        bias = torch.zeros(outputs) if biases else None
        return QuantizedLinear(dataclasses.replace(packed, blob=own), bias)

    def _random(self, outputs: int, inputs: int, bits: int) -> NativeWeight:
        if known := self._packed.get((outputs, inputs, bits)):
            return known
        words = torch.randint(-(2**31), 2**31, (inputs * bits // 32, outputs), generator=self._draw)
        scales = torch.full((inputs // GROUP, outputs), inputs**-0.5 / (4 if bits == 4 else 64)).half()
        return KERNELS["native"].pack([QuantizedTensor(words.int(), scales, bits, GROUP)], "int8")  # type: ignore[return-value]


def decoder_of(shape: str, layers: int | None = None) -> Decoder:
    """INT4 with the head in INT8; `shape` is "small" or of `SHAPES`, with so many layers instead of its own."""
    config = COMMON | (SMALL if shape == "small" else SHAPES[shape])
    decoder = from_transformers(config | ({"num_hidden_layers": layers} if layers else {}))
    return load_decoder(RandomWeights(decoder)).with_native_pass()
