"""Nothing that a checkpoint, a GGUF file or an artifact says about itself may hurt: it is answered from, or refused in a sentence."""

import json
import os
import re
import shutil
import struct
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import gguf
import numpy as np
import pytest
import tiny_gguf
import tiny_models
import torch
from hostile import Ids
from safetensors.torch import load_file, save_file

from itrex_chat import native, sources
from itrex_chat.architecture.config import as_stored, from_stored
from itrex_chat.artifacts import Artifact, manifest, obtain
from itrex_chat.chat import load_tokenizer
from itrex_chat.checkpoints import open_checkpoint
from itrex_chat.decoder.native_pass import Rows
from itrex_chat.engines.native.weights import load_dense, load_quantized
from itrex_chat.foundation.errors import (
    ArtifactError,
    CheckpointError,
    GenerationError,
    KernelError,
    SourceError,
    TokenizerError,
)
from itrex_chat.generation.loop import generate
from itrex_chat.generation.sampling import NotFinite, Sampler
from itrex_chat.kernels import KERNELS
from itrex_chat.quantization.tensor import QuantizedTensor
from itrex_chat.settings import recipe as recipes
from itrex_chat.settings.generation import GenerationConfig
from itrex_chat.settings.recipe import Chat
from itrex_chat.sources.gguf_header import read_header

FAMILIES = ("chatglm3", "qwen", "baichuan2", "llama", "mistral", "qwen2", "qwen3", "glm", "glm4")
LONGEST = 30  # seconds for one model


@pytest.fixture
def copied(models, tmp_path):
    return lambda family="llama": Path(shutil.copytree(models(family), tmp_path / f"{family}-copy"))


@pytest.fixture
def artifact(models):
    return obtain(recipes.load(str(models("llama")))).artifact


@pytest.fixture
def whole_gguf(models, tmp_path):
    return tiny_gguf.write(models("llama"), tmp_path / "model.gguf")


def changed(folder: Path, **changes) -> Path:
    """The folder with other values in its `config.json`."""
    config = json.loads((folder / "config.json").read_text("utf-8"))
    return tiny_models.described(folder, config | changes)


def opened(folder: Path):
    return open_checkpoint(sources.local(folder))


def endings(folders: list[Path]) -> list[str]:
    """How each of these models ended, in as few processes as it takes: after a signal the next one goes on."""
    found: list[str] = []
    while len(found) < len(folders):
        rest = [str(folder) for folder in folders[len(found) :]]
        done = subprocess.run(
            [sys.executable, str(Path(__file__).with_name("hostile.py")), *rest],
            capture_output=True,
            text=True,
            timeout=240,
            env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
        )
        told = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
        found += [f"{line['how']}" if line["seconds"] < LONGEST else "too long" for line in told if "how" in line]
        if done.returncode:
            found.append(f"signal or exit {done.returncode}: {done.stderr[-300:]}")
    return found


ROTARY = {"rope_type": "default", "rope_theta": 10000.0}


@pytest.mark.parametrize(
    "changes",
    [
        *({"rope_parameters": ROTARY | {"partial_rotary_factor": factor}} for factor in (1.5, 4, 64, 4000, -1, "half")),
        *(
            {"rope_parameters": ROTARY | {"rope_theta": base}}
            for base in ("10000", [1e4], True, 0, 1e300, float("nan"))
        ),
        *({"rope_parameters": {"rope_type": kind, "rope_theta": 1e4}} for kind in (["linear"], "linear", {})),
        *({"rope_parameters": ROTARY | {"rope_type": "dynamic", "factor": factor}} for factor in ("2", -2, True)),
        *({"sliding_window": window} for window in (-1, -(1 << 40), "8", True, 1 << 40)),
        *({"num_hidden_layers": layers} for layers in (0, -1, 1 << 20, 10**12, "2", 2.5)),
        *({"num_key_value_heads": heads} for heads in (3, 64, -2, 0, "2")),
        *({"head_dim": size} for size in (-16, 0, 1 << 22, "16", [16])),
        *({"rms_norm_eps": eps} for eps in (-1.0, "small", float("nan"), float("inf"), None)),
        {"intermediate_size": 1},
        {"hidden_act": ["silu"]},
        {"model_type": ["llama"]},
        {"max_position_embeddings": 1e30},
    ],
    ids=str,
)
def test_a_configuration_that_cannot_be_is_refused_in_a_sentence(changes, copied):
    with pytest.raises(CheckpointError):
        opened(changed(copied("mistral"), **changes))


def test_what_describes_no_decoder_is_not_read(copied):
    assert opened(changed(copied(), num_labels=10**9, attribute_map={"hidden_size": "vocab_size"}, dtype="none"))


@pytest.mark.parametrize("family, windowed", [("llama", False), ("glm4", False), ("mistral", True)])
def test_a_window_counts_where_the_architecture_has_one(family, windowed, copied):
    decoder = opened(changed(copied(family), sliding_window=3, layer_types=["full_attention"] * 2)).decoder
    assert bool(decoder.windows) is windowed


def test_qwen_with_attention_that_is_not_scaled_is_another_architecture(copied):
    with pytest.raises(CheckpointError, match="scale_attn_weights"):
        opened(changed(copied("qwen"), scale_attn_weights=False))


def test_a_window_below_zero_and_rotary_channels_past_the_head_end_no_process(copied, tmp_path):
    mistral = changed(copied("mistral"), sliding_window=-5)
    turned = [
        changed(
            Path(shutil.copytree(copied("llama") if not n else tmp_path / "llama-copy", tmp_path / f"turned{n}")),
            rope_parameters=ROTARY | {"partial_rotary_factor": factor},
        )
        for n, factor in enumerate((4, 64, 4000))
    ]
    assert all(how.startswith("refused") for how in endings([mistral, *turned]))


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_s_own_configuration_is_one_and_comes_back_from_its_manifest(family, models):
    decoder = opened(models(family)).decoder
    assert from_stored(json.loads(json.dumps(as_stored(decoder)))) == decoder


# Other values at a place of a manifest: the decoder, the matrices, where tensors are.
FORGED: tuple[tuple[tuple[str, ...], object], ...] = (
    (("decoder", "intermediate_size"), 1),
    (("decoder", "rotary", "dims"), 100000),
    (("decoder", "rotary", "dims"), 2),
    (("decoder", "kv_heads"), 64),
    (("decoder", "kv_heads"), 0),
    (("decoder", "heads"), 8),
    (("decoder", "head_dim"), 32),
    (("decoder", "hidden_size"), 128),
    (("decoder", "vocab_size"), 100000),
    (("decoder", "layers"), 1),
    (("decoder", "layers"), 3),
    (("decoder", "qkv_bias"), True),
    (("decoder", "qk_norm"), True),
    (("decoder", "windows"), [-1, 4]),
    (("decoder", "windows"), [4]),
    (("decoder", "norm_eps"), None),
    (("decoder", "rotary"), 7),
    (("decoder", "no such field"), 1),
    (("matrices", "model.layers.0.mlp.down_proj"), [4, 0]),
    (("matrices", "model.layers.0.mlp.down_proj"), [4, -32]),
    (("matrices", "model.layers.0.mlp.down_proj"), [4, 16]),
    (("matrices", "model.layers.0.mlp.down_proj"), [8, 32]),
    (("matrices", "model.layers.0.mlp.down_proj"), [3, 32]),
    (("matrices", "no such module"), [4, 32]),
    (("matrices",), {}),
    (("tensors", "model.norm.weight"), "../model.safetensors"),
    (("tensors", "model.norm.weight"), 5),
    (("tensors", "another.weight"), "model.safetensors"),
    (("files",), []),
    (("files", "x" * 300), {"size": 1, "sha256": ""}),
    (("files", "a\0b"), {"size": 1, "sha256": ""}),
    (("source", "stored"), 0.5),
    (("source", "origin"), "here"),
    (("statistics",), {}),
    (("statistics", "weights"), 0),
    (("statistics", "linear"), {"INT4": "many"}),
    (("statistics", "more"), 1),
    (("recipe",), {}),
)


def test_a_manifest_that_does_not_fit_its_tensors_is_a_damaged_artifact(artifact, tmp_path):
    folders = [linked(artifact.folder, tmp_path / f"forged-{number}") for number in range(len(FORGED))]
    for folder, (place, value) in zip(folders, FORGED):
        forged(folder, place, value)
    found = dict(zip(map(str, FORGED), endings(folders), strict=True))
    assert {name: how for name, how in found.items() if not re.match("refused: ArtifactError.*damaged", how)} == {}


def forged(folder: Path, place: tuple[str, ...], value: object) -> None:
    """Another value in a manifest, whose digest is right again."""
    content = manifest.read(folder)
    inner = content
    for key in place[:-1]:
        inner = inner[key]
    inner[place[-1]] = value
    (folder / manifest.FILE).unlink()  # it may be a link
    manifest.write(folder, content)


@pytest.mark.parametrize(
    "change",
    [
        lambda tensor: tensor[:-1],
        lambda tensor: tensor.double() if tensor.is_floating_point() else tensor.long(),
        lambda tensor: tensor[None],
        lambda tensor: tensor.reshape(-1)[0],
    ],
    ids=("shorter", "wider", "deeper", "scalar"),
)
@pytest.mark.parametrize("ending", ["q_proj.qweight", "o_proj.scales", "model.norm.weight", "embed_tokens.weight"])
def test_an_artifact_s_tensor_of_another_shape_or_type_is_damage(ending, change, artifact):
    path = artifact.folder / "model.safetensors"
    tensors = load_file(path)
    name = next(name for name in tensors if name.endswith(ending))
    save_file(tensors | {name: change(tensors[name]).contiguous()}, path)
    forged(artifact.folder, ("files", "model.safetensors", "size"), path.stat().st_size)
    with pytest.raises(ArtifactError, match="damaged"):
        load_quantized(Artifact.open(artifact.folder), KERNELS["native"], "int8")


native_only = pytest.mark.skipif(bool(native.missing()), reason="there are no native kernels")


@native_only
@pytest.mark.parametrize(
    "name, value",
    [("rotated", 64), ("rotated", 3), ("kv_heads", 0), ("kv_heads", 3), ("heads", -4), ("head_dim", 0), ("layers", 0)],
)
@pytest.mark.parametrize("rows", [1, 40])
def test_the_kernels_refuse_a_model_that_cannot_be(name, value, rows, models):
    decoder = load_dense(opened(models("llama")), "fp32")
    cache = decoder.new_cache(64)
    cache.begin([rows])
    setattr(decoder.native_pass.model, name, value)
    with pytest.raises(KernelError, match="do not fit together"):
        if rows > native.FEW_ROWS:
            decoder.native_pass._attention(0, torch.zeros(rows, 128), cache, rows_of(rows), torch.zeros(rows, 64))
        else:
            decoder.native_pass.step(torch.zeros(rows, 64), cache, rows_of(rows), [0])


@native_only
@pytest.mark.parametrize("position, sequence", [(64, 0), (-1, 0), (0, 1), (0, -1)])
def test_the_kernels_refuse_a_row_that_has_no_place_in_the_cache(position, sequence, models):
    decoder = load_dense(opened(models("llama")), "fp32")
    cache = decoder.new_cache(64)
    cache.begin([1])
    rows = Rows(torch.tensor([sequence]), torch.tensor([position]), 64, torch.zeros(1, 64), None)
    with pytest.raises(KernelError, match="do not fit together"):
        decoder.native_pass.step(torch.zeros(1, 64), cache, rows, [0])
    with pytest.raises(KernelError, match="do not fit together"):
        decoder.native_pass._attention(0, torch.zeros(1, 128), cache, rows, torch.zeros(1, 64))


@native_only
@pytest.mark.parametrize("page", [-1, 1, 1 << 30])
def test_the_kernels_refuse_a_page_that_the_pool_does_not_have(page, models):
    decoder = load_dense(opened(models("llama")), "fp32")
    cache = decoder.new_cache(64)
    cache.begin([1])
    cache.reserve(0, 1)
    cache.table[0, 0] = page
    for count in (1, 40):
        with pytest.raises(KernelError, match="do not fit together"):
            decoder.native_pass._attention(0, torch.zeros(count, 128), cache, rows_of(count), torch.zeros(count, 64))
    with pytest.raises(KernelError, match="do not fit together"):
        decoder.native_pass.step(torch.zeros(1, 64), cache, rows_of(1), [0])


@native_only
def test_the_kernels_refuse_logits_of_a_row_that_is_not_there(models):
    decoder = load_dense(opened(models("llama")), "fp32")
    cache = decoder.new_cache(64)
    cache.begin([1])
    cache.reserve(0, 2)
    for wanted in ([2], [-1], [0, 1, 0]):
        with pytest.raises(KernelError, match="do not fit together"):
            decoder.native_pass.step(torch.zeros(2, 64), cache, rows_of(2), wanted)


def rows_of(count: int) -> Rows:
    return Rows(torch.zeros(count, dtype=torch.int64), torch.arange(count), count, torch.zeros(count, 64), None)


@native_only
@pytest.mark.parametrize("group", [0, -32, 16, 48])
def test_a_matrix_whose_groups_cannot_be_is_not_packed(group):
    weight = QuantizedTensor(torch.zeros(8, 16, dtype=torch.int32), torch.zeros(2, 16, dtype=torch.float16), 4, group)
    with pytest.raises(KernelError):
        KERNELS["native"].pack([weight], "int8")


@native_only
def test_a_product_with_activations_of_another_width_is_refused():
    weight = QuantizedTensor(torch.zeros(8, 16, dtype=torch.int32), torch.zeros(2, 16, dtype=torch.float16), 4, 32)
    packed = KERNELS["native"].pack([weight], "int8")
    with pytest.raises(ValueError):
        packed.matmul(torch.zeros(2, 32))
    with pytest.raises(KernelError):
        packed.matmul(torch.zeros(0, 64))


GREEDY, RANDOM = GenerationConfig(max_new_tokens=4, do_sample=False), GenerationConfig(max_new_tokens=4, do_sample=True)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("place", [0, 1, 39])
@pytest.mark.parametrize("config", [GREEDY, RANDOM, replace(RANDOM, repetition_penalty=1.3)])
def test_no_token_is_chosen_from_logits_that_are_not_finite(value, place, config):
    logits = torch.linspace(-3, 3, 40)
    logits[place] = value
    with pytest.raises(NotFinite):
        Sampler(config, [3], 40).choose(logits)


@pytest.mark.parametrize("config", [GREEDY, RANDOM, replace(RANDOM, temperature=1e-42)])
def test_tokens_may_be_impossible_but_not_all_of_them(config):
    logits = torch.full((40,), float("-inf"))
    with pytest.raises(NotFinite):
        Sampler(config, [3], 40).choose(logits)
    logits[7] = 2.0
    assert Sampler(config, [3], 40).choose(logits) == 7


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_model_that_gives_no_numbers_gives_no_answer(value, models):
    decoder = load_dense(opened(models("llama")), "fp32")
    decoder.norm[3] = value
    with pytest.raises(GenerationError, match="not finite numbers"):
        list(generate(decoder, Ids(), [5, 9, 7], GREEDY))


def test_a_prompt_with_an_id_below_zero_is_refused(models):
    decoder = load_dense(opened(models("llama")), "fp32")
    with pytest.raises(GenerationError):
        list(generate(decoder, Ids(), [5, -1, 7], GREEDY))


@pytest.mark.parametrize(
    "content",
    [
        {1: torch.zeros(3)},
        {"a": torch.zeros(3), 2: torch.zeros(3)},
        {"a": torch.zeros(3, 3).to_sparse()},
        {"a": torch.zeros(3, device="meta")},
        {"a": torch.tensor(1.0)},
        {"a": 1.0},
        [torch.zeros(3)],
        torch.zeros(3),
        {},
    ],
    ids=lambda content: repr(content)[:30],
)
def test_a_pickle_that_holds_no_tensors_by_name_is_refused(content, copied):
    folder = copied("baichuan2")
    torch.save(content, folder / "pytorch_model.bin")
    with pytest.raises(CheckpointError):
        opened(folder)


def test_a_number_among_the_tensors_of_a_safetensors_file_is_refused(copied):
    folder = copied("llama")
    tensors = load_file(folder / "model.safetensors")
    save_file(tensors | {"model.norm.weight": torch.tensor(1.0)}, folder / "model.safetensors")
    with pytest.raises(CheckpointError, match="single number"):
        opened(folder)


@pytest.mark.parametrize(
    "listed", [{}, [], None, {"a": 5}, {"a": 5, "b": "c"}, {"a": ""}, {"a": ["b"]}, {"a": "x" * 300}, {"a": "\0"}]
)
def test_an_index_that_lists_no_weight_file_is_refused(listed, copied):
    folder = copied("qwen")
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": listed}), "utf-8")
    with pytest.raises(SourceError):
        sources.local(folder)


@pytest.mark.parametrize(
    "lines", [b"", b"IQ== 1", b"IQ== 0\nIg== 0", b"IQ== 0\nIg== 99999999999999999999", b"IQ== -1\nIg== 0"]
)
def test_ranks_that_are_not_a_vocabulary_are_refused(lines, copied):
    folder = copied("qwen")
    (folder / "qwen.tiktoken").write_bytes(lines)
    with pytest.raises(TokenizerError, match="is damaged"):
        load_tokenizer(folder, "qwen")


@pytest.mark.parametrize("name", ["x-00001-of-00000.gguf", "x-00000-of-00002.gguf", "x-00003-of-00002.gguf"])
def test_a_part_that_cannot_be_is_refused(name, whole_gguf, tmp_path):
    path = whole_gguf.rename(tmp_path / name)
    with pytest.raises(SourceError, match="cannot be a part"):
        sources.local(path)


def rewritten(path: Path, to: Path, **changes: tuple[gguf.GGUFValueType, object]) -> Path:
    """The GGUF file with some metadata given another type and value; dots are written "__"."""
    to.parent.mkdir(parents=True, exist_ok=True)
    reader = gguf.GGUFReader(path)
    writer = gguf.GGUFWriter(to, "llama")
    changes = {key.replace("__", "."): value for key, value in changes.items()}
    for key, field in reader.fields.items():
        if not key.startswith("GGUF.") and key != "general.architecture" and key not in changes:
            element = field.types[1] if len(field.types) > 1 else None
            writer.add_key_value(key, field.contents(), field.types[0], element)
    for key, (kind, value) in changes.items():
        writer.add_key_value(key, value, kind)
    for tensor in reader.tensors:
        writer.add_tensor(tensor.name, np.array(tensor.data), raw_dtype=tensor.tensor_type)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return to


U32, I32, TEXT = gguf.GGUFValueType.UINT32, gguf.GGUFValueType.INT32, gguf.GGUFValueType.STRING
FLOAT, LIST, BOOL = gguf.GGUFValueType.FLOAT32, gguf.GGUFValueType.ARRAY, gguf.GGUFValueType.BOOL


@pytest.mark.parametrize(
    "changes",
    [
        {"llama__rope__dimension_count": (U32, 4096)},
        {"llama__rope__dimension_count": (U32, 0)},
        {"llama__attention__head_count": (LIST, [4, 4])},
        {"llama__attention__head_count_kv": (LIST, [2, 2])},
        {"llama__attention__head_count": (U32, 0)},
        {"llama__attention__key_length": (U32, 0)},
        {"llama__block_count": (I32, -2)},
        {"llama__rope__freq_base": (TEXT, "many")},
        {"llama__rope__freq_base": (LIST, [1.0, 2.0])},
        {"llama__rope__freq_base": (BOOL, True)},
        {"llama__rope__freq_base": (FLOAT, float("nan"))},
        {"llama__rope__scaling__type": (LIST, [1, 2])},
        {"llama__attention__layer_norm_rms_epsilon": (FLOAT, float("inf"))},
    ],
    ids=str,
)
def test_gguf_metadata_that_cannot_be_is_refused(changes, whole_gguf, tmp_path):
    with pytest.raises(CheckpointError):
        opened(rewritten(whole_gguf, tmp_path / "odd" / "odd.gguf", **changes).parent)


@pytest.mark.parametrize("value", [(U32, 0), (U32, 3), (I32, -32), (TEXT, "32"), (FLOAT, 32.0)], ids=str)
def test_an_alignment_that_cannot_be_is_refused(value, whole_gguf, tmp_path):
    path = whole_gguf
    key = b"general.alignment"
    kind, number = value
    written = {
        U32: lambda: struct.pack("<I", number),
        I32: lambda: struct.pack("<i", number),
        FLOAT: lambda: struct.pack("<f", number),
        TEXT: lambda: struct.pack("<Q", len(number)) + number.encode(),
    }[kind]()
    content = path.read_bytes()
    magic, version, tensors, count = struct.unpack_from("<4sIQQ", content)
    added = struct.pack("<Q", len(key)) + key + struct.pack("<I", kind) + written
    path.write_bytes(struct.pack("<4sIQQ", magic, version, tensors, count + 1) + added + content[24:])
    with pytest.raises(CheckpointError, match="damaged"):
        read_header(path)


def test_token_ids_below_zero_in_gguf_metadata_name_no_token(whole_gguf, tmp_path):
    odd = rewritten(
        whole_gguf,
        tmp_path / "odd.gguf",
        tokenizer__ggml__eos_token_id=(I32, -1),
        tokenizer__ggml__bos_token_id=(I32, -5),
    )
    assert all(number >= 0 for number in load_tokenizer(odd.parent, "llama", Chat(), odd).stop_ids)


def linked(folder: Path, to: Path) -> Path:
    return Path(shutil.copytree(folder, to, copy_function=os.link))
