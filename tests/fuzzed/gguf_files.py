"""GGUF files whose metadata, table of tensors, counts or bytes say other things."""

from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import gguf
import tiny_gguf

from fuzzed.asking import asker
from fuzzed.binary import ARRAY, SCALARS, TEXT, Gguf
from fuzzed.case import Case
from fuzzed.checkpoints import consistent
from fuzzed.values import NUMBERS, TEXTS, damaged
from fuzzed.vocabularies import odd_template

SPLIT = "x-{part:05d}-of-{count:05d}.gguf"


def make(random: Random, folder: Path, seeds: Path) -> Case:
    if random.random() < 0.25:
        return _consistent(random, folder, seeds)
    seed = random.choice(sorted((seeds / "gguf").iterdir()))
    content, done = seed.read_bytes(), []
    if random.random() < 0.12:
        content, done = damaged(content, random), ["bytes"]
    else:
        parts = Gguf.of(content)
        for _time in range(random.choice((1, 1, 2, 3))):
            change = random.choices(list(CHANGES), list(CHANGES.values()))[0]
            done.append(change(parts, random))
        content = parts.bytes()
    folder = folder / "model"
    folder.mkdir()
    path = folder / "model.gguf"
    if random.random() < 0.1:
        path, more = _split(folder, random, content, seed.read_bytes())
        done.append(more)
    else:
        path.write_bytes(content)
    return Case(f"{seed.name}: {', '.join(done)}", asker(random, random.choice((path, folder))))


def _consistent(random: Random, folder: Path, seeds: Path) -> Case:
    """A file of sizes that nobody has and that fit together, with some of its settings changed."""
    config = consistent(random, folder / "made", seeds, ("llama", "qwen2", "qwen3"), plain=True)
    kinds = [gguf.GGMLQuantizationType[name] for name in ("F16", "BF16", "Q8_0", "Q4_0", "Q5_1")]
    blocks = (
        all(config[name] % 32 == 0 for name in ("hidden_size", "intermediate_size")) and config["head_dim"] % 32 == 0
    )
    kind = random.choice([None, *(kinds if blocks else kinds[:2])])
    path = tiny_gguf.write(folder / "made", folder / "model.gguf", kind)
    parts, done = Gguf.of(path.read_bytes()), ""
    if random.random() < 0.5:
        key, values = random.choice(sorted(SOUND.items()))
        entry = next((entry for entry in parts.metadata if entry[0].endswith(key)), None)
        if entry and not isinstance(entry[2], str):
            entry[2] = random.choice(values)
            done = f"{key} = {entry[2]}"
    path.write_bytes(parts.bytes())
    return Case(f"{config} {kind} {done}", asker(random, path))


SOUND = {
    ".rope.freq_base": (1.0, 0.5, 1e15, 1e-15, 3.0),
    ".attention.layer_norm_rms_epsilon": (0.0, 1.0, 1e-30),
    ".context_length": (30, 100, 1 << 23),
    ".eos_token_id": (0, 5, 1 << 31),
}


def _metadata(parts: Gguf, random: Random) -> str:
    """Another value, of the same type or another, under one of the keys."""
    described = [n for n, (key, _kind, value) in enumerate(parts.metadata) if not isinstance(value, tuple)]
    at = random.choice(described) if random.random() < 0.8 and described else random.randrange(len(parts.metadata))
    key, kind, old = parts.metadata[at]
    if key == "tokenizer.chat_template":
        parts.metadata[at][2] = odd_template(random, old if isinstance(old, str) else "")
    elif random.random() < 0.5 and kind in SCALARS:
        parts.metadata[at][2] = random.choice((*NUMBERS, old * 2, old + 1, -old))
    else:
        parts.metadata[at][1:] = _typed(random)
    return f"{key} = {str(parts.metadata[at][1:])[:60]}"


def _typed(random: Random) -> tuple[int, Any]:
    kind = random.choice((*SCALARS, TEXT, ARRAY, ARRAY, 13, 99))
    if kind == ARRAY:
        element = random.choice((4, 5, 6, 7, TEXT, ARRAY, 12, 77))
        values = random.choice(([], [4, 4], [1] * 300, list(NUMBERS), list(TEXTS)))
        return kind, (
            element,
            [(4, [1])] * 3 if element == ARRAY else [str(v) if element == TEXT else v for v in values],
        )
    return kind, random.choice(TEXTS if kind == TEXT else NUMBERS)


def _vocabulary(parts: Gguf, random: Random) -> str:
    """Tokens, kinds and merges that do not belong together."""
    lists = [
        entry for entry in parts.metadata if entry[0].startswith("tokenizer.ggml.") and isinstance(entry[2], tuple)
    ]
    if not lists:
        return "no vocabulary"
    entry = random.choice(lists)
    element, values = entry[2]
    values, how = list(values), random.randrange(6)
    if how == 0:
        values = values[: random.randrange(len(values) + 1)]
    elif how == 1:
        values += values[:9]
    elif values:
        odd = [*TEXTS, "a b", " ", "<|im_end|>", "<0x41>"] if element == TEXT else list(NUMBERS)
        for _time in range(random.choice((1, 50))):
            values[random.randrange(len(values))] = random.choice(odd)
    entry[2] = element, values
    return f"{entry[0]} changed"


def _keys(parts: Gguf, random: Random) -> str:
    at, how = random.randrange(len(parts.metadata)), random.randrange(4)
    entry = parts.metadata[at]
    if how == 0:
        del parts.metadata[at]
        parts.counts[1] -= 1
    elif how == 1:
        parts.metadata.append([entry[0], *_typed(random)])
        parts.counts[1] += 1
    elif how == 2:
        entry[0] = random.choice(TEXTS)
    else:
        kind = next(value for key, _kind, value in parts.metadata if key == "general.architecture")
        key = random.choice(MORE).format(kind)
        parts.metadata.append([key, *_typed(random)])
        parts.counts[1] += 1
        return f"{key} = {str(parts.metadata[-1][1:])[:60]}"
    return f"{entry[0][:40]} {('gone', 'twice', 'renamed')[how]}"


MORE = (
    *("{}.rope.dimension_count", "{}.rope.scaling.type", "{}.rope.scaling.factor", "{}.attention.sliding_window"),
    *("{}.rope.scaling.original_context_length", "{}.attention.value_length", "{}.vocab_size", "general.alignment"),
    *("split.count", "tokenizer.ggml.bos_token_id", "tokenizer.ggml.scores", "tokenizer.ggml.add_bos_token"),
)


def _tensors(parts: Gguf, random: Random) -> str:
    at, how = random.randrange(len(parts.tensors)), random.randrange(8)
    entry = parts.tensors[at]
    name = entry[0]
    if how == 0:
        entry[2] = random.choice((0, 1, 2, 3, 8, 10, 12, 14, 16, 24, 30, 31, 36, 39, 99, -1))
    elif how == 1:
        entry[3] = random.choice((0, 1, 32, len(parts.data), len(parts.data) - 32, 1 << 40, 1 << 63, -32))
    elif how == 2 and entry[1]:
        entry[1][random.randrange(len(entry[1]))] = random.choice((*NUMBERS, 32, 96, 640, 256))
    elif how == 3:
        entry[1] = random.choice(([], entry[1][::-1], [*entry[1], 1], [1] * 5, [1, 1, 1, 1], [1 << 40] * 4, [0]))
    elif how == 4:
        entry[0] = random.choice(
            (*TEXTS, parts.tensors[0][0], "rope_freqs.weight", "blk.0.attn_q.bias", "output.weight")
        )
    elif how == 5:
        del parts.tensors[at]
        parts.counts[0] -= 1
    elif how == 6:
        parts.tensors.append([random.choice((name, "x", "rope_freqs.weight", "blk.0.attn_q.bias")), *entry[1:]])
        parts.counts[0] += 1
    else:
        other = random.choice(parts.tensors)
        entry[3], other[3] = other[3], entry[3]
    return f"{name} {entry[1:]}"[:80]


def _header(parts: Gguf, random: Random) -> str:
    if random.random() < 0.3:
        parts.version = random.choice((0, 1, 2, 4, 1 << 31))
    else:
        which = random.randrange(2)
        parts.counts[which] = random.choice(
            (0, 1, parts.counts[which] + 1, parts.counts[which] - 1, 1 << 31, (1 << 64) - 1)
        )
    return f"version {parts.version}, counts {parts.counts}"


def _data(parts: Gguf, random: Random) -> str:
    some = bytearray(parts.data)
    for _time in range(random.choice((1, 9, 300))):
        at = random.randrange(max(1, len(some) - 4))
        some[at : at + 4] = random.choice((b"\0\0\x80\x7f", b"\xff\xff\xff\xff", b"\0\x7c\0\x7c", random.randbytes(4)))
    parts.data = bytes(some) if random.random() < 0.8 else bytes(some[: random.randrange(len(some))])
    return "data"


CHANGES: dict[Callable[[Gguf, Random], str], float] = {
    _metadata: 8,
    _tensors: 4,
    _keys: 4,
    _vocabulary: 3,
    _header: 1,
    _data: 2,
}


def _split(folder: Path, random: Random, content: bytes, good: bytes) -> tuple[Path, str]:
    """Parts that are several, or say so."""
    part, count = random.choice(((1, 2), (2, 2), (1, 1), (0, 2), (3, 2), (1, 0), (1, 99999)))
    path = folder / SPLIT.format(part=part, count=count)
    path.write_bytes(content)
    other = folder / SPLIT.format(part=3 - part if part in (1, 2) else 1, count=count)
    if random.random() < 0.7 and not other.exists():
        empty = Gguf.of(good)
        empty.tensors, empty.counts[0] = [], 0
        other.write_bytes(random.choice((good, empty.bytes())))
    return path, path.name
