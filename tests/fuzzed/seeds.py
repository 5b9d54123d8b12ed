"""What the cases are changes of: tiny models of all families and layouts, artifacts, a run. Made once:

python -m fuzzed.seeds FOLDER
"""

import json
import shutil
import sys
from pathlib import Path

import gguf
import numpy as np
import packed_checkpoints
import tiny_gguf
import tiny_models
import torch
from safetensors.torch import load_file

from fuzzed.checkpoints import PACKED
from itrex_chat.artifacts import manifest, obtain
from itrex_chat.ratings import given, judgements, sheet
from itrex_chat.ratings.criteria import CRITERIA
from itrex_chat.ratings.judgements import Judgement
from itrex_chat.ratings.pairs import Pair
from itrex_chat.settings import recipe as recipes

SMALL = {  # of the families whose vocabularies cannot be small
    "chatglm3": {
        "hidden_size": 32,
        "num_attention_heads": 2,
        "multi_query_group_num": 1,
        "ffn_hidden_size": 48,
        "num_layers": 1,
    },
    "baichuan2": {"hidden_size": 32, "num_attention_heads": 2, "intermediate_size": 48, "num_hidden_layers": 1},
}
STANDARD = ("llama", "mistral", "qwen2", "qwen3", "glm", "glm4")
NOWHERE = "/nowhere"  # where an artifact's original was, so that it is taken from the cache or not at all
GGUF_KINDS = {
    "llama-f32": ("llama", None),
    "llama-q8": ("llama", gguf.GGMLQuantizationType.Q8_0),
    "qwen2-q4": ("qwen2", gguf.GGMLQuantizationType.Q4_0),
    "qwen3-f16": ("qwen3", gguf.GGMLQuantizationType.F16),
}
ARTIFACTS = {
    "llama": (),
    "qwen3": ("quantization.weight_dtype", "int8", "quantization.group_size", "64"),
    "glm4": ("quantization.head", "none", "quantization.keep_layers", "[1]"),
    "chatglm3": ("quantization.head", "int4"),
}
OLD_RUN = Path(__file__).parents[1] / "old_run"


def make(folder: Path) -> None:
    """Checkpoints, GGUF files, artifacts (by the names of their models) and a run, each in a folder of that name."""
    checkpoints = folder / "checkpoints"
    for name, sizes in SMALL.items():
        getattr(tiny_models, name)(checkpoints / name, **sizes)
    tiny_models.qwen(checkpoints / "qwen")
    for name in STANDARD:
        tiny_models.standard(checkpoints / name, name, **({"sliding_window": 24} if name == "mistral" else {}))
    _layouts(checkpoints)
    for kind in PACKED:
        packed_checkpoints.write(
            checkpoints / "llama", checkpoints / kind, kind, group=32, symmetric=kind != "awq", bias=kind == "gptq"
        )
    _gguf_files(checkpoints, folder / "gguf")
    for name, settings in ARTIFACTS.items():
        _artifact(checkpoints / name, settings, folder / "artifacts" / name)
    _run(folder / "run")


def _layouts(checkpoints: Path) -> None:
    """One model in the other kinds of files: several safetensors, one pickle, several, and with an older vocabulary."""
    tensors = load_file(checkpoints / "llama" / "model.safetensors")
    for name in ("shards", "pickle", "pickles", "older"):
        shutil.copytree(checkpoints / "llama", checkpoints / name)
        if name != "older":
            (checkpoints / name / "model.safetensors").unlink()
    tiny_models.sharded(checkpoints / "shards", tensors, 2)
    torch.save(tensors, checkpoints / "pickle" / "pytorch_model.bin")
    names = sorted(tensors)
    homes = {}
    for part, chosen in enumerate((names[::2], names[1::2]), 1):
        file = f"pytorch_model-{part:05d}-of-00002.bin"
        torch.save({name: tensors[name] for name in chosen}, checkpoints / "pickles" / file)
        homes |= dict.fromkeys(chosen, file)
    (checkpoints / "pickles" / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": homes}), "utf-8")
    older = checkpoints / "older"
    vocabulary = json.loads((older / "tokenizer.json").read_text("utf-8"))["model"]
    (older / "tokenizer.json").unlink()
    (older / "vocab.json").write_text(json.dumps(vocabulary["vocab"]), "utf-8")
    (older / "merges.txt").write_text("\n".join(" ".join(pair) for pair in vocabulary["merges"]), "utf-8")
    settings = json.loads((older / "tokenizer_config.json").read_text("utf-8")) | {"tokenizer_class": "Qwen2Tokenizer"}
    (older / "tokenizer_config.json").write_text(json.dumps(settings), "utf-8")


def _gguf_files(checkpoints: Path, folder: Path) -> None:
    folder.mkdir()
    for name, (family, kind) in GGUF_KINDS.items():
        factors = np.linspace(1, 8, 8) if name == "llama-q8" else None
        tiny_gguf.write(checkpoints / family, folder / f"{name}.gguf", kind, rope_factors=factors)


def _artifact(model: Path, settings: tuple[str, ...], to: Path) -> None:
    """An artifact as it would be anywhere and at any time."""
    made = obtain(recipes.load(str(model), settings), to.parent / "cache").artifact
    shutil.copytree(made.folder, to)
    content = manifest.read(to)
    content["recipe"]["source"]["path"] = content["source"]["origin"]["path"] = f"{NOWHERE}/{model.name}"
    content["created"] = "2026-11-24T09:07:14+00:00"
    content["statistics"] |= {"seconds": 1.5, "peak_memory": 10**8}
    manifest.write(to, content)


def _run(folder: Path) -> None:
    """A run with all that can belong to it: measured, judged and rated."""
    from test_report import measured

    from itrex_chat.quality import record

    shutil.copytree(OLD_RUN, folder)
    label = "qwen2-tiny"
    record.write(folder, {label: measured(positions=200)})
    said = [Judgement("a", "baseline", "baseline", 0.5), Judgement("b", "equal", "")]
    judgements.write(folder, "first", {label: {"int4": said}})
    pair = Pair(label, "a", "你好", "", "fp32", "int4", "yes", "=1+1")
    sheet.secrets.token_hex = lambda count: "abc123"  # type: ignore[attr-defined]  # the same in every process
    sheet.make([pair], folder, folder / "sheet.csv")
    filled = (folder / "sheet.csv").read_text("utf-8").replace("," * 2 * len(CRITERIA), ",5,★★,-,3,4,1,2,5")
    (folder / "sheet.csv").write_text(filled, "utf-8", newline="")
    scores = {"scores": {"understanding": {"fp32": 5, "int4": 3}}}
    given.keep(
        folder, "rater", "abc123", [{"model": label, "question": "a", "baseline": "fp32", "variant": "int4"} | scores]
    )


if __name__ == "__main__":
    make(Path(sys.argv[1]))
