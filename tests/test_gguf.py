"""Tensors in GGUF files of any type and shape: read as they are meant, or refused with a sentence."""

import os
import struct

import gguf
import numpy as np
import pytest
import tiny_gguf
import torch

from itrex_chat.checkpoints.storage import GgufFiles
from itrex_chat.foundation.errors import CheckpointError


@pytest.mark.parametrize("kind", list(gguf.GGMLQuantizationType), ids=lambda kind: kind.name)
def test_a_gguf_vector_has_the_values_of_a_matrix_of_one_row(kind, tmp_path):
    """Of any block type, also in parts that are no whole blocks."""
    content = np.random.default_rng(kind).integers(0, 60, 3 * gguf.GGML_QUANT_SIZES[kind][1], np.uint8)
    count = 3 * gguf.GGML_QUANT_SIZES[kind][0]
    writer = gguf.GGUFWriter(tmp_path / "tensors.gguf", "llama")
    writer.add_tensor("matrix", content.reshape(1, -1), raw_dtype=kind)
    writer.add_tensor("vector", content, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    tensors = GgufFiles((tmp_path / "tensors.gguf",))
    try:
        [expected] = tensors.rows("matrix", 0, 1)
    except CheckpointError as error:
        assert "cannot dequantize" in str(error)
        with pytest.raises(CheckpointError, match="cannot dequantize"):
            tensors.rows("vector", 0, count)
        return
    cuts = sorted({0, 1, count // 2, count - 1, count})
    parts = [tensors.rows("vector", start, stop) for start, stop in zip(cuts, cuts[1:], strict=False)]
    assert tensors.shapes["vector"] == (count,) and torch.equal(torch.cat(parts), expected)


@pytest.mark.parametrize("shape", [(), (0,), (0, 32), (32, 0), (31,)])
def test_a_gguf_tensor_that_is_a_single_number_or_empty_or_no_whole_blocks_is_refused(shape, tmp_path):
    entry = struct.pack("<Q1sI", 1, b"t", len(shape)) + struct.pack(f"<{len(shape)}Q", *reversed(shape))
    key, value = b"general.architecture", b"llama"
    metadata = struct.pack("<Q", len(key)) + key + struct.pack("<IQ", 8, len(value)) + value
    header = struct.pack("<4sIQQ", b"GGUF", 3, 1, 1) + metadata + entry + struct.pack("<IQ", 8, 0)
    (tmp_path / "model.gguf").write_bytes(header + bytes(4096))
    with pytest.raises(CheckpointError, match="not whole blocks"):
        GgufFiles((tmp_path / "model.gguf",))


def test_a_gguf_file_that_was_cut_after_its_header_was_read_is_named(models, tmp_path):
    path = tiny_gguf.write(models("llama"), tmp_path / "model.gguf")
    tensors = GgufFiles((path,))
    for spoil in (lambda: os.truncate(path, 100), path.unlink):
        spoil()
        for name, shape in tensors.shapes.items():
            with pytest.raises(CheckpointError, match="model.gguf is damaged or truncated"):
                tensors.rows(name, 0, shape[0])
