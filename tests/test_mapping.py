"""Weights are read where they lie in the model's files; a file that changes meanwhile is a sentence."""

import os
import shutil
import signal
import subprocess
import sys
import textwrap
import zipfile
from pathlib import Path

import gguf
import pytest
import tiny_gguf
import torch
from native_cases import bit_equal
from safetensors.torch import load_file, save_file
from test_sixteen_bits import read, storages

from itrex_chat import native, sources
from itrex_chat.checkpoints import Checkpoint, open_checkpoint
from itrex_chat.decoder.linear import parts_of
from itrex_chat.decoder.model import Chunk, Decoder
from itrex_chat.engines.native import finite
from itrex_chat.engines.native.memory import needed
from itrex_chat.engines.native.streaming import Streaming
from itrex_chat.engines.native.weights import load_dense
from itrex_chat.engines.on_disk import OnDisk
from itrex_chat.foundation.death import how
from itrex_chat.foundation.errors import CheckpointError
from itrex_chat.foundation.memo import stamp
from itrex_chat.kernels import choose
from itrex_chat.native.mapping import Mapping
from itrex_chat.settings.quantization import Quantization


@pytest.fixture(autouse=True)
def _native():
    if reason := native.missing():
        pytest.skip(reason)


def opened(folder: Path) -> Checkpoint:
    return open_checkpoint(sources.local(folder))


def converted(folder: Path, target: Path, dtype: torch.dtype) -> Path:
    shutil.copytree(folder, target)
    for file in target.glob("*.safetensors"):
        save_file({name: tensor.to(dtype) for name, tensor in load_file(file).items()}, file, metadata={"format": "pt"})
    return target


def all_matrices(checkpoint: Checkpoint) -> int:
    specs = [spec for spec in checkpoint.specs() if spec.role != "vector"]
    specs = [spec for spec in specs if spec.role != "head" or not checkpoint.decoder.tied_head]
    return sum(spec.size * checkpoint.stored(spec.name).itemsize for spec in specs)


def loaded_by_reading(checkpoint: Checkpoint, monkeypatch) -> Decoder:
    with monkeypatch.context() as here:
        here.setattr(Mapping, "tensor", lambda *_place: None)
        return load_dense(checkpoint, "fp32")


@pytest.mark.parametrize("family", ["chatglm3", "qwen", "baichuan2", "qwen2"])
def test_all_matrices_are_used_where_they_lie(family, models, monkeypatch):
    """Safetensors in fp16, bf16 and fp32, and a `.bin`; but for Baichuan2's head, which is computed."""
    checkpoint = opened(models(family))
    mapped, copied = load_dense(checkpoint, "fp32"), loaded_by_reading(checkpoint, monkeypatch)
    computed = mapped.head.nbytes() if family == "baichuan2" else 0
    assert mapped.mapping.nbytes == all_matrices(checkpoint) - computed and not copied.mapping.nbytes
    assert all(map(bit_equal, read(mapped), read(copied)))


def test_parts_that_lie_one_behind_the_other_are_one_matrix(models):
    for family, count in (("chatglm3", 1), ("qwen", 1), ("baichuan2", 1), ("qwen2", 3)):
        assert len(parts_of(load_dense(opened(models(family)), "fp32").blocks[1].qkv)) == count


@pytest.mark.parametrize("kind", ["F16", "BF16", "F32", "Q8_0"])
@pytest.mark.parametrize("family", ["llama", "qwen2"])
def test_so_are_those_of_gguf_that_are_not_quantized(family, kind, models, tmp_path, monkeypatch):
    file = tiny_gguf.write(models(family), tmp_path / "model.gguf", gguf.GGMLQuantizationType[kind])
    checkpoint = opened(file)
    mapped, copied = load_dense(checkpoint, "fp32"), loaded_by_reading(checkpoint, monkeypatch)
    expected = 0 if kind == "Q8_0" else all_matrices(checkpoint)
    if expected and family == "llama":  # the rows of queries and keys are in another order there
        orders = [spec for spec in checkpoint.specs() if "q_proj.w" in spec.name or "k_proj.w" in spec.name]
        expected -= sum(spec.size * checkpoint.stored(spec.name).itemsize for spec in orders)
    assert mapped.mapping.nbytes == expected
    assert storages(mapped) == {{"F16": "fp16", "BF16": "bf16"}.get(kind, "fp32")}
    assert all(map(bit_equal, read(mapped), read(copied)))


def test_bf16_is_used_where_it_lies(models):
    checkpoint = opened(models("qwen"))
    mapped = load_dense(checkpoint, "bf16")
    assert mapped.mapping.nbytes == all_matrices(checkpoint)
    converted = load_dense(opened(models("chatglm3")), "bf16")  # from float16, but for the embedding
    assert converted.mapping.nbytes == converted.embedding.nbytes


def moved(file: Path, by: int) -> None:
    """A safetensors file with a longer header, so that its values begin elsewhere."""
    content = file.read_bytes()
    length = int.from_bytes(content[:8], "little")
    file.write_bytes((length + by).to_bytes(8, "little") + content[8 : 8 + length] + b" " * by + content[8 + length :])


@pytest.mark.parametrize("by", [1, 2, 4, 6])
def test_values_at_odd_places_are_used_or_read(by, models, tmp_path):
    folder = converted(models("llama"), tmp_path / "odd", torch.bfloat16)
    before = read(load_dense(opened(folder), "fp32"))
    [file] = folder.glob("*.safetensors")
    moved(file, by)
    decoder = load_dense(opened(folder), "fp32")
    assert bool(decoder.mapping.nbytes) == (by % 2 == 0)
    assert all(map(bit_equal, read(decoder), before))


def reordered(file: Path) -> None:
    """Two records of values change places: they lie elsewhere than the pickle's order says, which is no fault."""
    content = zipfile.ZipFile(file)
    records = [(record.filename, content.read(record)) for record in content.infolist()]
    with zipfile.ZipFile(file, "w") as archive:
        for name, values in reversed(records):
            archive.writestr(name, values)


def test_a_bin_file_that_another_program_packed_is_read_where_it_lies(models, tmp_path):
    folder = shutil.copytree(models("baichuan2"), tmp_path / "packed")
    reordered(folder / "pytorch_model.bin")
    decoder = load_dense(opened(folder), "fp32")
    assert decoder.mapping.nbytes
    assert all(map(bit_equal, read(decoder), read(load_dense(opened(models("baichuan2")), "fp32"))))


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_values_that_are_not_finite_are_refused_by_name(dtype, value, models, tmp_path):
    folder = converted(models("llama"), tmp_path / "bad", dtype)
    [file] = folder.glob("*.safetensors")
    tensors = load_file(file)
    tensors["model.layers.1.mlp.up_proj.weight"][-1, -1] = value
    save_file(tensors, file)
    with pytest.raises(
        CheckpointError, match=r"the tensor model.layers.1.mlp.up_proj.weight holds values that are not"
    ):
        load_dense(opened(folder), "fp32")


def looked_at(monkeypatch) -> list[int]:
    """Bytes of each tensor that is looked at from now on."""
    seen: list[int] = []
    look = native.finite
    monkeypatch.setattr(native, "finite", lambda tensor: seen.append(tensor.nbytes) or look(tensor))
    return seen


def test_values_are_looked_at_once_and_again_when_their_file_has_changed(models, tmp_path, monkeypatch):
    folder, home = converted(models("llama"), tmp_path / "model", torch.bfloat16), tmp_path / "cache"
    seen = looked_at(monkeypatch)
    first = load_dense(opened(folder), "fp32", home=home)
    assert sum(seen) == first.mapping.nbytes
    seen.clear()
    again = load_dense(opened(folder), "fp32", home=home)
    assert not seen and all(map(bit_equal, read(again), read(first)))
    [file] = folder.glob("*.safetensors")
    times = file.stat().st_mtime_ns
    tensors = load_file(file)
    tensors["model.layers.1.mlp.up_proj.weight"][-1, -1] = float("nan")
    save_file(tensors, file, metadata={"format": "pt"})
    os.utime(file, ns=(times, times))
    for _time in range(2):
        with pytest.raises(CheckpointError, match=r"model.layers.1.mlp.up_proj.weight holds values that are not"):
            load_dense(opened(folder), "fp32", home=home)


def test_what_was_streamed_is_looked_at_when_it_stays_in_memory(models, tmp_path, monkeypatch):
    folder, home = models("llama"), tmp_path / "cache"
    head = frozenset({"lm_head.weight"})
    load_dense(opened(folder), "fp32", plan=lambda _matrices: Streaming(head, 0, 1 << 22), home=home)
    seen = looked_at(monkeypatch)
    whole = load_dense(opened(folder), "fp32", home=home)
    assert seen == [whole.head.nbytes()]


@pytest.mark.parametrize("damage", ["{", "[]", '{{"{file}": [{stamp}, 7]}}', '{{"{file}": [{stamp}, [[0, "x"]]]}}'])
def test_a_damaged_memory_of_what_was_looked_at_vouches_for_nothing(damage, models, tmp_path, monkeypatch):
    folder, home = models("llama"), tmp_path / "cache"
    home.mkdir()
    [file] = folder.glob("*.safetensors")
    (home / finite.FILE).write_text(damage.format(file=file, stamp=stamp(file)) if ":" in damage else damage, "utf-8")
    seen = looked_at(monkeypatch)
    assert load_dense(opened(folder), "fp32", home=home).mapping.nbytes == sum(seen) > 0


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_one_value_that_is_not_finite_is_found_wherever_it_is(dtype):
    values = torch.zeros(1_200_003, dtype=dtype)
    values[::2] = torch.finfo(dtype).max
    values[1::2] = torch.finfo(dtype).smallest_normal / 4
    assert native.finite(values)
    for at in (0, 1, 31, 524287, 524288, 1_200_002):
        for bad in (float("inf"), float("-inf"), float("nan")):
            kept = values[at].clone()
            values[at] = bad
            assert not native.finite(values)
            values[at] = kept
    assert native.finite(values[:0])


CHANGES = {
    "shortened to nothing": lambda file: os.truncate(file, 0),
    "shortened to a part": lambda file: os.truncate(file, 5000),
    "written to": lambda file: file.open("r+b").write(b"x"),
    "made longer": lambda file: file.open("ab").write(b"x"),
}


def is_refused_after(change, decoder: Decoder, file: Path) -> None:
    """A model whose file changes while it answers gives nothing more out."""
    cache = decoder.new_cache(64)
    cache.begin([20])
    decoder.read([Chunk(0, range(3, 23))], cache)
    change(file)
    for ids in ([3], range(3, 30)):
        with pytest.raises(CheckpointError, match="model.safetensors was changed while the model was read from it"):
            decoder.read([Chunk(0, ids)], cache)
    assert cache.lengths == [20]


@pytest.mark.parametrize("kernel", ["native", "reference"])
@pytest.mark.parametrize("change", CHANGES)
def test_a_file_that_changes_while_it_is_used_is_a_sentence(change, kernel, models, tmp_path, monkeypatch):
    monkeypatch.setenv("ITREX_CHAT_KERNEL", kernel)
    folder = shutil.copytree(models("qwen2"), tmp_path / "model")
    [file] = folder.glob("*.safetensors")
    is_refused_after(CHANGES[change], load_dense(opened(folder), "fp32"), file)


@pytest.mark.parametrize("change", ["removed", "replaced"])
def test_a_file_that_is_removed_or_replaced_is_kept_while_it_is_used(change, models, tmp_path):
    folder = shutil.copytree(models("qwen2"), tmp_path / "model")
    [file] = folder.glob("*.safetensors")
    decoder = load_dense(opened(folder), "fp32")
    before = read(decoder)
    file.unlink()
    if change == "replaced":
        file.write_bytes(b"another")
    assert all(map(bit_equal, read(decoder), before))


def test_a_file_that_cannot_be_mapped_is_read(models, tmp_path, monkeypatch):
    """As on a file system that has no mappings; the name leads to something that is no file."""
    checkpoint = opened(models("qwen"))
    monkeypatch.setattr("itrex_chat.native.mapping.os.open", lambda *_arguments: os.pipe()[0])
    decoder = load_dense(checkpoint, "fp32")
    assert not decoder.mapping.nbytes
    monkeypatch.undo()
    assert all(map(bit_equal, read(decoder), read(load_dense(checkpoint, "fp32"))))


OTHERS_SIGBUS = """
    import ctypes, mmap, os, signal, sys, faulthandler, torch
    from itrex_chat.native.mapping import Mapping
    from pathlib import Path
    if sys.argv[2] == "traced by faulthandler":
        faulthandler.enable()
    ours, theirs = Path(sys.argv[1]) / "ours", Path(sys.argv[1]) / "theirs"
    ours.write_bytes(bytes(16384)), theirs.write_bytes(bytes(16384))
    mapping = Mapping()
    tensor = mapping.tensor(ours, 0, torch.float32, (4096,))
    if sys.argv[2] == "gone":
        del tensor, mapping
    with theirs.open("r+b") as file:
        other = mmap.mmap(file.fileno(), 0)
        os.truncate(theirs, 0)
        print(other[0])
"""


@pytest.mark.parametrize("state", ["there", "gone", "traced by faulthandler"])
def test_what_befalls_another_mapping_of_the_process_is_not_hidden(state, tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(OTHERS_SIGBUS), str(tmp_path), state], capture_output=True, text=True
    )
    assert done.returncode == -signal.SIGBUS and not done.stdout
    assert "became shorter, or its disk failed" in how(done.returncode)
    assert ("Bus error" in done.stderr) == (state == "traced by faulthandler")


def test_memory_is_planned_apart_for_what_is_in_files(models):
    for family in ("chatglm3", "qwen", "baichuan2", "qwen2"):
        checkpoint = opened(models(family))
        decoder = load_dense(checkpoint, "fp32")
        arguments = checkpoint.decoder, "fp32", 100, Quantization(), choose(), OnDisk(checkpoint).stored
        stored, wide = needed(*arguments), needed(*arguments, "fp32")
        assert stored.mapped == decoder.mapping.nbytes and stored.total == stored.own + stored.mapped
        embedding = decoder.embedding.nbytes
        assert wide.mapped == (embedding if family != "qwen2" else stored.mapped)
        assert stored.own < wide.own or family == "qwen2"


def test_a_mapping_ends_with_the_last_tensor_in_it(tmp_path):
    file = tmp_path / "values"
    file.write_bytes(bytes(8192))
    mapped = lambda: str(file) in Path("/proc/self/maps").read_text("utf-8")
    mapping = Mapping()
    tensor = mapping.tensor(file, 4096, torch.float32, (2, 512))
    assert tensor.shape == (2, 512) and mapped()
    part = tensor[1]
    del mapping, tensor
    assert mapped() and part.sum() == 0
    del part
    assert not mapped()


def test_no_tensor_reaches_past_the_end_of_its_file(tmp_path):
    file, mapping = tmp_path / "values", Mapping()
    file.write_bytes(bytes(100))
    assert mapping.tensor(file, 0, torch.float32, (25,)) is not None
    for offset, count in ((4, 25), (100, 1), (104, 1), (0, 26), (0, 0), (2, 3)):
        assert mapping.tensor(file, offset, torch.float32, (count,)) is None
