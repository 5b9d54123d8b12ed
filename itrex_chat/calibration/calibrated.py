"""Calibration as the writer of an artifact sees it: matrices in order, and what is kept of it between two files."""

from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from tqdm import tqdm

from itrex_chat.calibration import keeping
from itrex_chat.calibration.driver import BlockWise
from itrex_chat.calibration.texts import reading_for, texts_of
from itrex_chat.checkpoints import Checkpoint
from itrex_chat.foundation import files
from itrex_chat.foundation.digests import sha256
from itrex_chat.quantization.plan import Treatment
from itrex_chat.settings.quantization import Quantization


class Calibrated:
    """Quantizes the matrices that need texts. Raises RecipeError, CheckpointError and TokenizerError."""

    def __init__(
        self,
        checkpoint: Checkpoint,
        treatments: Sequence[Treatment],
        quantization: Quantization,
        encode: Callable[[str], list[int]],
    ):
        config = checkpoint.decoder
        self._texts = texts_of(quantization)
        self._reading = reading_for(config, quantization, encode)
        self._blocks = BlockWise(checkpoint, treatments, self._reading.windows, quantization.iterations)
        self._kept: dict[int, Path] = {}
        self._begun = False
        self._shape = sum(self._reading.tokens.values()), config.hidden_size

    def tensors(self, treatment: Treatment, bar: tqdm) -> dict[str, torch.Tensor]:
        """What the artifact stores of a matrix, in the order of the blocks."""
        if not self._begun:
            self._begin(treatment.spec.block)
        return self._blocks.tensors(treatment, bar)

    def _begin(self, block: int) -> None:
        """Begin with a block, or with one before it whose inputs are known."""
        self._begun = True
        for number in sorted(self._kept, reverse=True):
            if number > block:
                continue
            if found := keeping.read(self._kept[number], self._shape, self._blocks.follows):
                self._blocks.go_on(number, *found)
                return

    def kept_bytes(self) -> int:
        """The most that is kept in files: the inputs of three blocks, while one of them is being replaced."""
        return 3 * 4 * self._shape[0] * self._shape[1] * (1 + self._blocks.follows)

    def described(self) -> dict:
        """What the manifest tells of it."""
        return {
            "calibration": [
                {"name": text.name, "sha256": text.sha256, "tokens": self._reading.tokens[text.sha256]}
                for text in self._texts
            ]
        }

    def go_on(self, folder: Path, done: dict[str, str]) -> None:
        """Begin behind what an interrupted quantization left in a folder. `done`: the digests of its whole files."""
        self._kept = {number: folder / name for name in done if (number := keeping.number_of(name)) is not None}

    def keep(self, folder: Path, done: dict[str, str]) -> None:
        """Keep the inputs of the next block, as the file that holds this one's matrices is about to be finished; those of
        this block stay until the next time, for it may have other files. What is written gets its digest in `done`."""
        number = self._blocks.number
        if not number or (name := keeping.name_of(number)) in done:
            return
        self.forget(folder, done, number - 1)
        with files.replacing(folder / name) as partial:
            keeping.write(self._blocks.inputs, self._blocks.exact, partial)
            digest = sha256(partial)
        done[name] = digest

    def forget(self, folder: Path, done: dict[str, str], below: int | None = None) -> None:
        """Remove what was kept of blocks, all of it or of those below a number."""
        for name in list(done):
            number = keeping.number_of(name)
            if number is not None and (below is None or number < below):
                (folder / name).unlink(missing_ok=True)
                del done[name]
