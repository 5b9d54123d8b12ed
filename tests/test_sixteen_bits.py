"""FP32 from a checkpoint in 16 bits: the bits of FP32 weights in memory, whatever computes, at half the memory."""

import shutil
from ctypes import byref

import pytest
import torch
from native_cases import bit_equal
from safetensors.torch import load_file, save_file

from itrex_chat import native, sources
from itrex_chat.checkpoints import open_checkpoint
from itrex_chat.decoder.linear import DenseLinear, StackedLinear
from itrex_chat.decoder.model import Chunk, Decoder
from itrex_chat.engines.native.weights import load_dense

DTYPES = {"fp16": torch.float16, "bf16": torch.bfloat16}
FAMILIES = ("chatglm3", "qwen", "baichuan2", "llama", "qwen2")  # qwen2: with biases
PASSES = (512, 1, 17, 2, 3, 4, 70, 5, 6, 33, 7, 9, 13, 16, 1)  # 1 to 70 rows behind a prompt of 512


@pytest.fixture(scope="module")
def folders(models, tmp_path_factory):
    """A function that makes a family's checkpoint in 16 bits once."""
    made = {}

    def make(family: str, dtype: str):
        if (family, dtype) not in made:
            folder = tmp_path_factory.mktemp("models") / f"{family}-{dtype}"
            shutil.copytree(models(family), folder)
            for file in folder.glob("*.safetensors"):
                tensors = {name: tensor.to(DTYPES[dtype]) for name, tensor in load_file(file).items()}
                save_file(tensors, file, metadata={"format": "pt"})
            for file in folder.glob("*.bin"):
                tensors = torch.load(file, weights_only=True)
                torch.save({name: tensor.to(DTYPES[dtype]) for name, tensor in tensors.items()}, file)
            made[family, dtype] = folder
        return made[family, dtype]

    return make


def read(decoder: Decoder) -> list[torch.Tensor]:
    """Logits of many passes, and the keys and values of all tokens in all layers."""
    ids = torch.randint(3, 600, (sum(PASSES),), generator=torch.Generator().manual_seed(0)).tolist()
    cache, out, at = decoder.new_cache(len(ids)), [], 0
    cache.begin([512])
    for count in PASSES:
        out += decoder.read([Chunk(0, ids[at : at + count], min(count, 17))], cache)[0].clone()
        at += count
    return [*out, cache.pages.memory.view(torch.float32)]


def storages(decoder: Decoder) -> set[str]:
    parts = [part for linear in decoder.linears() for part in getattr(linear, "parts", (linear,))]
    return {part.storage for part in parts}


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("family", FAMILIES)
def test_fp32_from_16_bits_gives_the_bits_of_fp32_weights_in_memory(level, family, dtype, folders):
    checkpoint = open_checkpoint(sources.local(folders(family, dtype)))
    stored, wide = (load_dense(checkpoint, "fp32", storage) for storage in ("stored", "fp32"))
    assert stored.native_pass and wide.native_pass
    assert storages(stored) - {"fp32"} == {dtype} and storages(wide) == {"fp32"}
    assert storages(stored) == {dtype} or family == "baichuan2"  # whose head is computed
    assert all(map(bit_equal, read(stored), read(wide)))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("family", FAMILIES)
def test_so_does_pytorch_alone(family, dtype, folders, monkeypatch):
    monkeypatch.setenv("ITREX_CHAT_KERNEL", "reference")
    checkpoint = open_checkpoint(sources.local(folders(family, dtype)))
    stored, wide = (load_dense(checkpoint, "fp32", storage) for storage in ("stored", "fp32"))
    assert not stored.native_pass and dtype in storages(stored)
    assert all(map(bit_equal, read(stored), read(wide)))


def of_all_values(dtype: torch.dtype, columns: int) -> torch.Tensor:
    """A matrix [rows, columns] that has every finite value of 16 bits, subnormal ones too."""
    values = torch.arange(-0x8000, 0x8000, dtype=torch.int32).to(torch.int16).view(dtype)
    values = values[values.isfinite()]
    if dtype == torch.bfloat16:
        values = values[values.abs() < 1e30]  # whose products have finite sums
    values = values[torch.randperm(len(values), generator=torch.Generator().manual_seed(0))]
    return values[: len(values) // columns * columns].view(-1, columns)


@pytest.mark.parametrize("columns", [1, 7, 16, 33, 72, 257, 4100])
@pytest.mark.parametrize("dtype", DTYPES)
def test_every_value_of_16_bits_is_widened_exactly(level, dtype, columns):
    weight = of_all_values(DTYPES[dtype], columns)
    x = torch.randn(40, columns, generator=torch.Generator().manual_seed(1))
    for rows in (1, 2, 3, 4, 5, 6, 7, 12, 13, 16, 40):
        products = []
        for name, matrix in ((dtype, weight), ("fp32", weight.float())):
            out = torch.empty(rows, len(weight))
            described = native.Linear(
                format=native.FORMATS[name],
                compute=native.COMPUTE["fp32"],
                inputs=columns,
                outputs=len(weight),
                weight=matrix.data_ptr(),
            )
            arguments = rows, x.data_ptr(), columns, out.data_ptr(), len(weight), 2
            native.check(native.library().itrex_product(byref(described), *arguments))
            products.append(out)
        assert products[0].isfinite().all() and bit_equal(*products)
    alone = DenseLinear(weight)(x), DenseLinear(weight.float())(x)
    assert bit_equal(*alone)


@pytest.mark.parametrize("compute", ["bf16", "int8"])
def test_float16_is_computed_in_fp32_alone(level, compute):
    weight = torch.ones(16, 32, dtype=torch.float16)
    with pytest.raises(ValueError, match="stored in fp16 is not computed in"):
        DenseLinear(weight, compute=compute)
    described = native.Linear(
        format=native.FORMATS["fp16"], compute=native.COMPUTE[compute], inputs=32, outputs=16, weight=weight.data_ptr()
    )
    x = torch.ones(1, 32)
    assert native.library().itrex_product(byref(described), 1, x.data_ptr(), 32, x.data_ptr(), 16, 1) == native.REFUSED


def test_parts_that_are_stored_differently_are_each_kept_as_they_are(folders, tmp_path):
    folder = shutil.copytree(folders("qwen2", "bf16"), tmp_path / "mixed")
    [file] = folder.glob("*.safetensors")
    tensors = load_file(file)
    tensors = {name: tensor.float() if "v_proj" in name else tensor for name, tensor in tensors.items()}
    save_file(tensors, file, metadata={"format": "pt"})
    checkpoint = open_checkpoint(sources.local(folder))
    mixed, wide = (load_dense(checkpoint, "fp32", storage) for storage in ("stored", "fp32"))
    qkv = mixed.blocks[0].qkv
    assert isinstance(qkv, StackedLinear) and qkv.parts[-1].storage == "fp32"
    assert storages(mixed) == {"bf16", "fp32"}
    assert all(map(bit_equal, read(mixed), read(wide)))


def test_it_takes_half_the_memory(folders):
    checkpoint = open_checkpoint(sources.local(folders("llama", "bf16")))
    stored, wide = (load_dense(checkpoint, "fp32", storage) for storage in ("stored", "fp32"))
    assert stored.weight_bytes() * 2 == wide.weight_bytes()
