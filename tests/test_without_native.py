"""Where the native kernels were not built, or cannot be loaded, the program runs without them and says why."""

import _ctypes
import shutil
from pathlib import Path

import pytest
import torch
from native_cases import LIBRARY

from itrex_chat import native, sources
from itrex_chat.checkpoints import open_checkpoint
from itrex_chat.engines.native.weights import load_dense
from itrex_chat.foundation.errors import KernelError
from itrex_chat.kernels import KERNELS, choose, why_not_faster
from itrex_chat.native import built_from

OTHER = "a library that can be loaded and is not ours"
NOT_BUILT = (
    "they were not built when the program was installed, which takes a C compiler (Debian, Ubuntu: apt install gcc) "
    "and installing again"
)


@pytest.fixture
def installed_in(tmp_path, monkeypatch):
    """The folder in which the program looks for the library: an empty one."""
    monkeypatch.setattr(native, "__file__", str(tmp_path / "__init__.py"))
    native._load.cache_clear()
    yield tmp_path
    native._load.cache_clear()


@pytest.mark.parametrize(
    "content, reason",
    [
        (None, NOT_BUILT),
        (b"", "file too short"),
        (b"not a library" * 100, "invalid ELF header"),
        (OTHER, "was built from other sources than those of this version"),
    ],
)
def test_the_next_kernel_is_chosen_and_the_reason_is_told(content, reason, installed_in):
    if content == OTHER:
        shutil.copy(_ctypes.__file__, installed_in / LIBRARY)
    elif content is not None:
        (installed_in / LIBRARY).write_bytes(content)
    assert reason in native.missing()
    assert content is None or str(installed_in / LIBRARY) in native.missing()
    chosen = choose()
    assert chosen.name == ("reference" if KERNELS["ark"].missing() else "ark")
    assert why_not_faster(chosen).startswith(f"native: {native.missing()}")
    with pytest.raises(KernelError) as refused:
        choose("native")
    assert str(refused.value) == f"The kernel native cannot run here: {native.missing()}."
    with pytest.raises(KernelError, match="The native kernels are not there: "):
        native.instructions()


def test_a_library_of_other_sources_is_not_used(installed_in, monkeypatch):
    folder = Path(built_from.__file__).parent
    if not (folder / LIBRARY).exists():
        pytest.skip("there are no kernels")
    for source in (*folder.glob("*.c"), *folder.glob("*.h")):
        shutil.copy(source, installed_in)
    shutil.copy(folder / LIBRARY, installed_in)
    assert native.missing() is None
    native._load.cache_clear()
    (installed_in / "cpu.c").write_text("// of the next version", "utf-8")
    assert native.missing().startswith(
        f"{installed_in / LIBRARY} was built from other sources than those of this version"
    )


def test_without_native_kernels_and_avx2_the_reference_is_chosen(installed_in, monkeypatch):
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "DEFAULT")
    assert choose().name == "reference"
    assert why_not_faster(choose()) == f"native: {NOT_BUILT}; ark: the processor has no AVX2"


def test_a_dense_variant_runs_without_native_kernels(installed_in, models):
    decoder = load_dense(open_checkpoint(sources.local(models("qwen2"))), "fp32")
    assert not decoder.native_pass
    cache = decoder.new_cache(8)
    cache.begin([3])
    assert decoder.forward(torch.tensor([[3, 4, 5]]), cache).isfinite().all()
