"""What must be a finding, each once: a server that does not see one of these sees nothing."""

import ctypes
import os
from collections.abc import Callable
from pathlib import Path

import torch

from fuzzed import pickles
from fuzzed.case import Case
from itrex_chat import native
from itrex_chat.foundation.errors import RunError

SECONDS = 2.0  # that these may take


def make(number: int) -> Case:
    use = USES[number]
    return Case(use.__name__, use)


def traceback() -> None:
    raise RuntimeError


def signal() -> None:
    ctypes.string_at(0)


def exit_() -> None:
    os._exit(3)


def no_sentence() -> None:
    raise RunError(" ")


def steers_a_terminal() -> None:
    print("\x1b[2J")


def runs_code() -> None:
    Path(pickles.MARK).touch()


def memory() -> None:
    bytearray(1 << 30)


def endless() -> None:
    while True:
        pass


def written_behind_a_tensor() -> None:
    x, weight, y = torch.ones(2, 33), torch.ones(33), torch.empty(65)
    native.library().itrex_rms_norm(x.data_ptr(), weight.data_ptr(), 2, 33, 1e-5, y.data_ptr(), 2)


def read_behind_a_tensor() -> None:
    x, weight, y = torch.ones(65), torch.ones(33), torch.empty(2, 33)
    native.library().itrex_rms_norm(x.data_ptr(), weight.data_ptr(), 2, 33, 1e-5, y.data_ptr(), 2)


USES: tuple[Callable[[], None], ...] = (
    *(traceback, signal, exit_, no_sentence, steers_a_terminal, runs_code, memory, endless),
    *(written_behind_a_tensor, read_behind_a_tensor),
)
