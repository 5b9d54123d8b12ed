"""A model's folder as ITREX reads it, made in the cache beside the model, which is not touched.

    itrex/views/NAME-KEY/
        config.json, tokenizer.json, …     in the words of transformers 4.38 and tokenizers 0.15
        rest.safetensors                   embedding, norms, biases, head
        blocks-00001.safetensors, …        the matrices of the blocks, made when they are needed, or links to the model's files
        model.safetensors.index.json       names the files for transformers
        digests.json                       SHA-256 of each file: what is damaged or gone is written again

The INT4 variant needs no matrices: its integers are in the artifact.
"""

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from filelock import FileLock
from safetensors.torch import save_file

from itrex_chat import sources
from itrex_chat.artifacts.store import label
from itrex_chat.chat import ChatTokenizer, load_tokenizer
from itrex_chat.checkpoints import Checkpoint, open_checkpoint
from itrex_chat.engines.itrex.architecture import Architecture, for_itrex
from itrex_chat.foundation import files, progress
from itrex_chat.foundation.errors import EngineError
from itrex_chat.foundation.language import _
from itrex_chat.foundation.places import cache_home
from itrex_chat.settings.recipe import Recipe
from itrex_chat.sources.digests import DigestMemo

FORMAT = 3  # raise it when what a view holds changes
SHARD = 1 << 30  # bytes
REST, INDEX, STAND_IN = "rest.safetensors", "model.safetensors.index.json", "stand-in"
LOCK, DIGESTS = ".lock", "digests.json"


@dataclass(frozen=True)
class View:
    """A prepared folder, the model it is of and how ITREX is to build it."""

    folder: Path
    checkpoint: Checkpoint
    architecture: Architecture
    tokenizer: ChatTokenizer

    def bytes_of_rest(self) -> int:
        """Bytes on disk of what is not in an artifact."""
        return (self.folder / REST).stat().st_size

    def matrix(self, name: str) -> torch.Tensor:
        """A matrix of ITREX's model [out, in] as it is stored."""
        rows = self.architecture.matrices[name]
        matrix = self.checkpoint.rows(f"{rows.module}.weight", rows.first, rows.first + rows.count)
        return matrix[list(rows.order)].contiguous() if rows.order else matrix


def prepared(recipe: Recipe, home: Path | None = None, blocks: bool = True) -> View:
    """The view of a recipe's model, made if the cache has none; with the `blocks`' matrices or without.

    Raises ItrexChatError.
    """
    home = home or cache_home()
    source = sources.resolve(recipe, home)
    checkpoint = open_checkpoint(source)
    tokenizer = load_tokenizer(
        source.folder, checkpoint.family, recipe.chat, source.weights[0] if source.format == "gguf" else None
    )
    architecture = for_itrex(checkpoint.decoder, sorted(tokenizer.stop_ids))
    content = json.dumps([FORMAT, sorted(source.digests(home).items())])
    key = hashlib.sha256(content.encode()).hexdigest()[:12]
    view = View(home / "itrex" / "views" / f"{label(recipe.name)}-{key}", checkpoint, architecture, tokenizer)
    with files.disk_errors(EngineError, _("Preparing {folder}", folder=view.folder)):
        view.folder.mkdir(parents=True, exist_ok=True)
        with FileLock(view.folder / LOCK):
            for leftover in view.folder.glob(".*.partial"):  # of a process that was killed
                leftover.unlink()
            written = _read_digests(view)
            _take_away_damaged(view, written, _digests(view, home, blocks), blocks)
            if not (view.folder / REST).is_file():
                _write_descriptions(view)
                _save(dict(_others(view)), view.folder / REST)
            if blocks and not ((view.folder / INDEX).is_file() and _links_are_right(view)):
                _write_blocks(view)
            if (digests := written | _digests(view, home, blocks)) != written:
                files.write_json(view.folder / DIGESTS, digests)
    return view


def _read_digests(view: View) -> dict[str, str]:
    try:
        digests = json.loads((view.folder / DIGESTS).read_text("utf-8"))
    except (OSError, ValueError):
        return {}
    return digests if isinstance(digests, dict) else {}


def _digests(view: View, home: Path, blocks: bool) -> dict[str, str]:
    """SHA-256 of the files that are there and are not links; of the blocks' only where those are wanted."""
    paths = {
        path.relative_to(view.folder).as_posix(): path
        for path in view.folder.rglob("*")
        if path.is_file() and not path.is_symlink() and path.name not in (LOCK, DIGESTS)
    }
    wanted = {name: path for name, path in paths.items() if blocks or not _is_of_blocks(name)}
    digests = DigestMemo(home / "itrex").sha256(list(wanted.values()))
    return {name: digests[path] for name, path in wanted.items()}


def _is_of_blocks(name: str) -> bool:
    return name == INDEX or name.startswith("blocks-")


def _take_away_damaged(view: View, written: dict[str, str], digests: dict[str, str], blocks: bool) -> None:
    """Unlink what is not as it was written, and the file that says that all is there, so that it is written again."""
    for name, digest in written.items():
        if digests.get(name) == digest or _is_of_blocks(name) and not blocks:
            continue
        if _is_of_blocks(name):
            (view.folder / name).unlink(missing_ok=True)
        (view.folder / (INDEX if _is_of_blocks(name) else REST)).unlink(missing_ok=True)


def _write_descriptions(view: View) -> None:
    files.write_json(view.folder / "config.json", view.architecture.config)
    (view.folder / STAND_IN).mkdir(exist_ok=True)
    for name, content in old_tokenizer(view.tokenizer.files()).items():
        with files.replacing(view.folder / name) as partial:
            partial.write_bytes(content)


def _others(view: View) -> Iterator[tuple[str, torch.Tensor]]:
    """Everything but the blocks' matrices, biases in the order of ITREX's rows."""
    checkpoint, decoder = view.checkpoint, view.checkpoint.decoder
    for spec in checkpoint.specs():
        if spec.role == "linear" or spec.role == "head" and decoder.tied_head:
            continue
        tensor = checkpoint.tensor(spec)
        rows = view.architecture.matrices.get(spec.name.removesuffix(".bias"))
        yield spec.name, tensor[list(rows.order)].contiguous() if rows and rows.order else tensor
    if view.architecture.config.get("attention_bias") and not decoder.output_bias:
        for name, rows in view.architecture.matrices.items():
            if name.endswith("o_proj"):
                yield f"{name}.bias", torch.zeros(rows.count)


def _write_blocks(view: View) -> None:
    """The matrices, linked or copied, and at last the index, which makes them whole."""
    homes = dict.fromkeys((name for name, _tensor in _others(view)), REST)
    homes |= _link(view) or _copy(view)
    files.write_json(view.folder / INDEX, {"metadata": {}, "weight_map": homes})


def _own_files(view: View) -> dict[str, Path]:
    """The model's own file for each of ITREX's matrices, where they serve as they are; else nothing."""
    found = {}
    for name, rows in view.architecture.matrices.items():
        if rows.order or rows.module != name or (file := view.checkpoint.file_of(f"{name}.weight")) is None:
            return {}
        found[f"{name}.weight"] = file.resolve()
    return found


def _link(view: View) -> dict[str, str]:
    """Links to the model's own files, and the file of each matrix; nothing where they do not serve."""
    found = _own_files(view)
    for file in set(found.values()):
        (view.folder / file.name).unlink(missing_ok=True)
        (view.folder / file.name).symlink_to(file)
    return {name: file.name for name, file in found.items()}


def _links_are_right(view: View) -> bool:
    """Whether the links lead to the model that was given: it may have moved, or be another copy."""
    links = [path for path in view.folder.iterdir() if path.is_symlink()]
    return not links or {path.resolve() for path in links} == set(_own_files(view).values())


def _copy(view: View) -> dict[str, str]:
    """The matrices as ITREX wants them, a file at a time, those that exist already passed over; the file of each matrix."""
    parts: list[list[str]] = [[]]
    size = 0
    for name, rows in view.architecture.matrices.items():
        tensor = f"{rows.module}.weight"
        size += rows.count * view.checkpoint.columns(tensor) * view.checkpoint.dtype(tensor).itemsize
        parts[-1].append(name)
        if size >= SHARD:
            parts.append([])
            size = 0
    homes: dict[str, str] = {}
    with progress.bar(_("preparing for ITREX"), len(view.architecture.matrices), "matrices") as bar:
        for number, part in enumerate(filter(None, parts), 1):
            file = f"blocks-{number:05d}.safetensors"
            if not (view.folder / file).is_file():
                shard = {}
                for name in part:
                    shard[f"{name}.weight"] = view.matrix(name)
                    bar.update(1)
                _save(shard, view.folder / file)
            else:
                bar.update(len(part))
            homes |= dict.fromkeys((f"{name}.weight" for name in part), file)
    return homes


def _save(tensors: dict[str, torch.Tensor], path: Path) -> None:
    with files.replacing(path) as partial:
        try:
            with files.reached(partial.parent) as folder:
                save_file(tensors, folder / partial.name, metadata={"format": "pt"})
        except Exception as error:  # safetensors' own type hides the number of the system's error
            if "No space left" in str(error) or "os error 28" in str(error):
                raise OSError(28, "No space left on device") from error
            raise


def old_tokenizer(contents: dict[str, bytes]) -> dict[str, bytes]:
    """Tokenizer files as tokenizers 0.15 and transformers 4.38 read them, and a stand-in for those that cannot be.

    Prompts come as ids, so the stand-in, of single bytes, serves for all but
    ITREX's own template. Merges are written as "a b", a Metaspace with the
    setting that it had then.
    """
    written = {f"{STAND_IN}/{name}": content for name, content in _bytes_tokenizer().items()}
    if "tokenizer.json" not in contents:
        return written
    content = json.loads(contents["tokenizer.json"])
    model = content["model"]
    if merges := model.get("merges"):
        model["merges"] = [pair if isinstance(pair, str) else " ".join(pair) for pair in merges]
    for part in _parts(content):
        if part.get("type") == "Metaspace":
            part["add_prefix_space"] = part.get("prepend_scheme", "always") != "never"
    settings = json.loads(contents.get("tokenizer_config.json", b"{}")) | {"tokenizer_class": "PreTrainedTokenizerFast"}
    return written | {
        "tokenizer.json": json.dumps(content, ensure_ascii=False).encode(),
        "tokenizer_config.json": json.dumps(settings, ensure_ascii=False, indent=2).encode(),
    }


def _parts(content: dict) -> Iterator[dict]:
    """The pre-tokenizer, the decoder, and what they are made of."""
    for name in ("pre_tokenizer", "decoder"):
        part = content.get(name) or {}
        yield from (part, *(part.get("pretokenizers") or ()), *(part.get("decoders") or ()))


def _bytes_tokenizer() -> dict[str, bytes]:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    pieces = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab={piece: number for number, piece in enumerate(pieces)}, merges=[]))
    tokenizer.pre_tokenizer, tokenizer.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": pieces[0], "pad_token": pieces[0]}
    return {"tokenizer.json": tokenizer.to_str().encode(), "tokenizer_config.json": json.dumps(settings).encode()}
