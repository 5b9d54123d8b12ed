"""Checkpoints of PyTorch's own format: they are read as torch.load reads them, and none takes more memory than it has bytes."""

import pickle
import struct
import tracemalloc
import zipfile
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest
import torch

from itrex_chat.checkpoints.storage import PickleFiles
from itrex_chat.foundation.errors import CheckpointError

FORMATS = {"zip": True, "of before torch 1.6": False}


def drawn(*shape, dtype=torch.float32):
    return torch.from_numpy(np.random.default_rng(1).standard_normal(shape, np.float32)).to(dtype)


WHOLE = drawn(12, 10)
CONTENTS = {
    "plain": {
        "a": drawn(5, 7),
        "b": drawn(3),
        "c": drawn(4, 2, dtype=torch.bfloat16),
        "d": drawn(6, 2, dtype=torch.float16),
    },
    "parts of one": {
        "q": WHOLE[:4],
        "k": WHOLE[4:8],
        "columns": WHOLE[:, 3:5],
        "turned": WHOLE.t(),
        "a corner": WHOLE[3:, 2:].t(),
    },
    "one under two names": {"embedding": WHOLE, "head": WHOLE},
    "parameters": {"a": torch.nn.Parameter(drawn(4, 4)), "b": torch.nn.Parameter(WHOLE.t(), requires_grad=False)},
    "a module's": torch.nn.Sequential(
        torch.nn.Linear(5, 3), torch.nn.BatchNorm1d(3, track_running_stats=False)
    ).state_dict(),
    "an ordered dict's": OrderedDict(b=drawn(2, 2), a=drawn(3, 3)),
}


@pytest.mark.parametrize("zipped", FORMATS.values(), ids=FORMATS)
@pytest.mark.parametrize("content", CONTENTS.values(), ids=CONTENTS)
def test_tensors_are_those_that_torch_load_gives(content, zipped, tmp_path):
    path = tmp_path / "pytorch_model.bin"
    torch.save(content, path, _use_new_zipfile_serialization=zipped)
    files, loaded = PickleFiles((path,)), torch.load(path, weights_only=True)
    assert files.shapes == {name: tuple(tensor.shape) for name, tensor in loaded.items()}
    for name, tensor in loaded.items():
        assert files.dtype(name) == tensor.dtype
        for start, stop in ((0, len(tensor)), (1, len(tensor)), (0, 1)):
            rows = files.rows(name, start, stop)
            assert torch.equal(rows, tensor[start:stop]) and rows.is_contiguous()


@pytest.mark.parametrize("zipped", FORMATS.values(), ids=FORMATS)
def test_tensors_of_other_types_may_be_there_but_are_not_used(zipped, tmp_path):
    """Masks that older versions of transformers saved with a model."""
    path = tmp_path / "pytorch_model.bin"
    others = {"mask": torch.ones(3, 3, dtype=torch.bool), "ids": torch.arange(4), "none": torch.zeros(0, 3)}
    torch.save(others | {"a": WHOLE}, path, _use_new_zipfile_serialization=zipped)
    files = PickleFiles((path,))
    assert (
        torch.equal(files.rows("a", 0, 12), WHOLE) and files.shapes["mask"] == (3, 3) and files.shapes["none"] == (0, 3)
    )
    with pytest.raises(CheckpointError, match="stored as torch.bool"):
        files.rows("mask", 0, 1)


def rewritten(path: Path, change) -> Path:
    """The archive with each entry as `change` gives it: name, content, kind of compression."""
    with zipfile.ZipFile(path) as archive:
        entries = [(entry.filename, archive.read(entry)) for entry in archive.infolist()]
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in entries:
            name, content, kind = change(name, content)
            archive.writestr(name, content, kind)
    return path


@pytest.fixture
def saved(tmp_path):
    path = tmp_path / "pytorch_model.bin"
    torch.save({"a": WHOLE, "b": drawn(2, 3)}, path)
    return path


@pytest.mark.parametrize("entry", ["data.pkl", "data/0", "byteorder", ""])
def test_a_compressed_archive_is_refused(entry, saved):
    def change(name, content):
        return name, content, zipfile.ZIP_DEFLATED if name.endswith(entry) else zipfile.ZIP_STORED

    with pytest.raises(CheckpointError, match="is compressed"):
        PickleFiles((rewritten(saved, change),))


def lying(path: Path, entry: str, kind: int, sizes: tuple[int, int]) -> Path:
    """The archive, whose table of contents says that an entry is compressed so, and has these sizes on disk and inflated."""
    content = bytearray(path.read_bytes())
    at = -1
    while (at := content.find(b"PK\1\2", at + 1)) >= 0:
        [length] = struct.unpack_from("<H", content, at + 28)
        if content[at + 46 : at + 46 + length].endswith(entry.encode()):
            struct.pack_into("<H", content, at + 10, kind)
            struct.pack_into("<II", content, at + 20, *sizes)
    path.write_bytes(content)
    return path


@pytest.mark.parametrize("entry", ["data.pkl", "data/0"])
@pytest.mark.parametrize("sizes", [(100, 3 << 30), (3 << 30, 3 << 30), (3 << 30, 100)])
def test_an_archive_that_lies_about_its_sizes_is_refused(entry, sizes, saved):
    with pytest.raises(CheckpointError):
        PickleFiles((lying(saved, entry, zipfile.ZIP_STORED, sizes),))


def raw(*operations: bytes) -> bytes:
    """A pickle of protocol 2."""
    return b"".join((pickle.PROTO + b"\2", *operations, pickle.STOP))


def text(value: str) -> bytes:
    return pickle.BINUNICODE + struct.pack("<I", len(value)) + value.encode()


def number(value: int) -> bytes:
    return pickle.LONG1 + b"\10" + struct.pack("<q", value)


def called(name: str, *arguments: bytes) -> bytes:
    return (
        pickle.GLOBAL
        + name.encode().replace(b" ", b"\n")
        + b"\n"
        + pickle.MARK
        + b"".join(arguments)
        + pickle.TUPLE
        + pickle.REDUCE
    )


DOUBLED = pickle.EMPTY_LIST + b"".join(
    pickle.BINPUT + bytes([n]) + pickle.EMPTY_LIST + pickle.MARK + (pickle.BINGET + bytes([n])) * 2 + pickle.APPENDS
    for n in range(60)
)
HOSTILE = {
    "a function that takes memory": called("builtins bytearray", number(3 << 30)),
    "a tensor without values": called("torch Tensor", number(3 << 30)),
    "a storage without values": called("torch FloatStorage", number(3 << 30)),
    "a number for a memo of 64 GB": pickle.NONE + pickle.LONG_BINPUT + b"\xff\xff\xff\xff",
    "a text longer than the file": pickle.BINUNICODE + struct.pack("<I", 3 << 30),
    "an array longer than the file": b"\x96" + struct.pack("<Q", 3 << 30),
    "a list of lists of the same lists": DOUBLED,
    "a call of a list of lists": DOUBLED + pickle.EMPTY_TUPLE + pickle.REDUCE,
    "a tensor of lists of lists": called("torch._utils _rebuild_tensor_v2", DOUBLED, *[DOUBLED] * 5),
    "keys whose hashes collide": pickle.EMPTY_DICT
    + pickle.MARK
    + b"".join(number(n * (2**61 - 1) % 2**63) + pickle.NONE for n in range(1, 3000))
    + pickle.SETITEMS,
}


@pytest.mark.parametrize("operations", HOSTILE.values(), ids=HOSTILE)
@pytest.mark.parametrize("layout", ["zip", "of before torch 1.6", "bare"])
def test_a_pickle_that_would_take_memory_or_time_is_refused(operations, layout, saved):
    content = raw(pickle.EMPTY_DICT, text("a"), operations, pickle.SETITEM)
    if layout == "zip":
        rewritten(saved, lambda name, old: (name, content if name.endswith("data.pkl") else old, zipfile.ZIP_STORED))
    elif layout == "bare":
        saved.write_bytes(content)
    else:
        before = b"".join(pickle.dumps(value, 2) for value in (0x1950A86A20F9469CFC6C, 1001, {}))
        saved.write_bytes(before + content + pickle.dumps([], 2))
    tracemalloc.start()
    try:
        with pytest.raises(CheckpointError):
            PickleFiles((saved,))
        assert tracemalloc.get_traced_memory()[1] < 64 << 20
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("zipped", FORMATS.values(), ids=FORMATS)
@pytest.mark.parametrize(
    "content, sentence",
    [
        ({"a": torch.zeros(1).expand(1 << 20, 1024)}, "more elements than are stored"),
        ({f"layer {number}": WHOLE for number in range(1000)}, "more bytes"),
        ({"a": torch.zeros(3, 3).to_sparse()}, "more than tensors"),
        ({"a": {"b": WHOLE}}, "tensors by name"),
        ({"a": WHOLE, "epoch": 3}, "tensors by name"),
        ([WHOLE], "tensors by name"),
    ],
)
def test_what_is_no_checkpoint_of_its_size_is_named(content, sentence, zipped, tmp_path):
    path = tmp_path / "pytorch_model.bin"
    torch.save(content, path, _use_new_zipfile_serialization=zipped)
    with pytest.raises(CheckpointError, match=sentence):
        PickleFiles((path,))


@pytest.mark.parametrize("zipped", FORMATS.values(), ids=FORMATS)
def test_damage_anywhere_is_a_sentence_or_harmless(zipped, tmp_path):
    path, random = tmp_path / "pytorch_model.bin", np.random.default_rng(5)
    torch.save({"a": WHOLE, "b": WHOLE.t()}, path, _use_new_zipfile_serialization=zipped)
    whole = path.read_bytes()
    for case in range(300):
        content = bytearray(whole)
        for at in random.integers(0, len(whole), 1 + case % 5):
            content[at : at + 1 + case % 3] = random.bytes(1 + case % 3)
        path.write_bytes(content[: random.integers(1, len(whole))] if case % 10 == 0 else content)
        try:
            files = PickleFiles((path,))
            assert all(len(files.rows(name, 0, shape[0])) == shape[0] for name, shape in files.shapes.items())
        except CheckpointError:
            pass


def test_a_file_that_was_cut_off_meanwhile_is_named(saved):
    files = PickleFiles((saved,))
    saved.write_bytes(saved.read_bytes()[:100])
    with pytest.raises(CheckpointError, match="shorter than it was"):
        files.rows("a", 0, 12)
