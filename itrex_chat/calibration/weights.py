"""A checkpoint's weights as calibration reads them."""

import torch

from itrex_chat.architecture.layout import EMBEDDING
from itrex_chat.checkpoints import Checkpoint
from itrex_chat.decoder.linear import DenseLinear


class Floats:
    """Parts of a decoder from a checkpoint, all in float32 and memory of their own."""

    def __init__(self, checkpoint: Checkpoint):
        self.config, self._checkpoint = checkpoint.decoder, checkpoint
        self._specs = {spec.name: spec for spec in checkpoint.specs()}

    def rows(self, name: str) -> int:
        return self._specs[f"{name}.weight"].shape[0]

    def bytes_read(self, name: str) -> int:
        return self.bytes_of(f"{name}.weight")

    def bytes_of(self, name: str) -> int:
        return self._specs[name].size * self._checkpoint.dtype(name).itemsize

    def vector(self, name: str) -> torch.Tensor:
        return self._checkpoint.tensor(self._specs[name]).to(torch.float32, copy=True)

    embedding = vector

    def embedded(self, windows: list[list[int]]) -> torch.Tensor:
        """The embeddings of all tokens, float32 [tokens, hidden]."""
        ids = torch.tensor([token for window in windows for token in window])
        found = torch.empty(len(ids), self.config.hidden_size)
        for start, stop, values in self._checkpoint.slabs(self._specs[EMBEDDING], 1 << 22):
            here = (ids >= start) & (ids < stop)
            found[here] = values[ids[here] - start].float()
        return found

    def linear(self, names: list[str]) -> DenseLinear:
        weight = torch.cat([self._checkpoint.tensor(self._specs[f"{name}.weight"]).float() for name in names])
        biases = [self.vector(f"{name}.bias") for name in names if f"{name}.bias" in self._specs]
        return DenseLinear(weight, torch.cat(biases) if biases else None)
