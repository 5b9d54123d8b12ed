"""Fixtures: a cache of the test's own, tiny models, and the golden values where they are at hand."""

import os
import signal
import subprocess
import sys
from pathlib import Path

# In the background of a shell an interrupt is ignored, and processes inherit that.
signal.signal(signal.SIGINT, signal.default_int_handler)

import fuzzing
import native_cases
import platformdirs
import pytest
import tiny_models
import torch
from browser import browser  # noqa: F401  a fixture

from itrex_chat import native
from itrex_chat.foundation import progress
from itrex_chat.foundation.errors import KernelError

ROOT = Path(__file__).resolve().parents[1]
SHARED = Path(os.environ.get("ITREX_CHAT_SHARED", ROOT.parent / "shared"))


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    """A cache of the test's own, English messages, and bars, which a server in this process has silenced."""
    folder = tmp_path / "cache"
    monkeypatch.setattr(progress, "_silent", False)
    monkeypatch.setenv("ITREX_CHAT_CACHE", str(folder))
    monkeypatch.setenv("ITREX_CHAT_LANG", "en")
    monkeypatch.delenv("ITREX_CHAT_KERNEL", raising=False)
    return folder


@pytest.fixture
def threads():
    """A function that sets the number of torch's threads, which is also the kernels'; afterwards it is as before."""
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


@pytest.fixture(params=native.INSTRUCTIONS)
def level(request, monkeypatch):
    """Runs the test with these instructions, and leaves the kernels as they were; AMX tiles are emulated where there are none."""
    if reason := native.missing():
        pytest.skip(reason)
    with monkeypatch.context() as here:
        try:
            if request.param == "amx" and not fuzzing.has_tiles():
                if reason := fuzzing.missing():
                    pytest.skip(f"tiles cannot be emulated: {reason}")
                here.setattr(native, "__file__", str(fuzzing.library().with_name("__init__.py")))
                native._load.cache_clear()
            native_cases.use(request.param, here)
            yield request.param
        except KernelError as error:
            pytest.skip(str(error))
    native._load.cache_clear()
    native.instructions()


@pytest.fixture
def text(tmp_path):
    """A text file in two languages."""
    file = tmp_path / "text.txt"
    file.write_text(
        "今天天气很好，我们一起去公园散步。What is the capital of France? def f(x): return x ** 2\n" * 90, "utf-8"
    )
    return file


@pytest.fixture(scope="session")
def models(tmp_path_factory):
    """A function that makes a tiny model of a family once and gives its folder."""
    made = {}

    def make(family: str) -> Path:
        if family not in made:
            folder = tmp_path_factory.mktemp("models") / f"{family}-tiny"
            maker = getattr(tiny_models, family, None)
            made[family] = maker(folder) if maker else tiny_models.standard(folder, family)
        return made[family]

    return make


@pytest.fixture(scope="session")
def real_vocabularies():
    """The folder of the real vocabulary files; they are not ours to ship."""
    folder = SHARED / "tokenizers"
    if not folder.is_dir():
        pytest.skip(f"the real vocabulary files are not at {folder} (ITREX_CHAT_SHARED names the folder above)")
    return folder


@pytest.fixture(scope="session")
def package_cache():
    """A cache that outlives the tests, so that the embedded model is downloaded once."""
    return Path(platformdirs.user_cache_dir("itrex_chat_tests"))


@pytest.fixture(scope="session")
def wheel(tmp_path_factory):
    """The wheel of this checkout, built once: its kernels take a minute to compile."""
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", str(folder), str(ROOT)]
    built = subprocess.run(command, capture_output=True, text=True)
    assert built.returncode == 0, built.stderr
    [file] = folder.glob("*.whl")
    return file
