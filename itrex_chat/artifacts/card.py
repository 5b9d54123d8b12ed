"""An artifact made ready to be pushed: its files, a manifest that tells nothing of this machine, and a model card."""

import json
import os
import shutil
from collections.abc import Sequence
from pathlib import Path

from itrex_chat.artifacts import manifest as manifests
from itrex_chat.artifacts.artifact import Artifact
from itrex_chat.foundation import files
from itrex_chat.foundation.errors import ArtifactError
from itrex_chat.foundation.language import _
from itrex_chat.quantization.statistics import ALGORITHMS, Statistics, groups_of
from itrex_chat.settings.quantization import ANSWERS

CARD = "README.md"
LICENCES = ("apache-2.0", "mit", "bsd-3-clause", "cc-by-4.0", "cc0-1.0")  # that hubs know by these names


def lay_out(artifact: Artifact, folder: Path, card: str) -> None:
    """Write the folder to be pushed: files as they are, by links where the disk has them, the card, the manifest last.

    The manifest has no digest of the card, which people change on a hub. Raises ArtifactError.
    """
    with files.disk_errors(ArtifactError, _("Writing to {folder}", folder=folder)):
        folder.mkdir(parents=True, exist_ok=True)
        if any(folder.iterdir()):
            raise ArtifactError(_("{folder} is not empty; name another folder with --out.", folder=folder))
        recorded = {name: file for name, file in artifact.manifest["files"].items() if name != CARD}
        for name in recorded:
            _place(artifact.folder / name, folder / name)
        files.write_text(folder / CARD, card)
        manifests.write(folder, _without_places(artifact.manifest) | {"files": recorded})


def _place(file: Path, target: Path) -> None:
    try:
        os.link(file, target)
    except OSError:  # another disk, or one without links
        shutil.copyfile(file, target)


def _without_places(manifest: dict) -> dict:
    """The manifest without folders of this machine: of a local source only its last name."""
    source, recipe = manifest["source"], manifest["recipe"]
    origin = source["origin"]
    if origin.get("path"):
        origin = origin | {"path": Path(str(origin["path"])).name}
    asked = recipe["source"] | {"path": Path(str(recipe["source"].get("path") or "")).name}
    quantization = recipe["quantization"]
    if texts := quantization.get("calibration"):
        quantization = quantization | {"calibration": [_last_name(str(text)) for text in texts]}
    without = recipe | {"source": asked, "quantization": quantization}
    return manifest | {"source": source | {"origin": origin}, "recipe": without}


def _last_name(text: str) -> str:
    """Of a text to calibrate on, or of a run."""
    return (ANSWERS if text.startswith(ANSWERS) else "") + Path(text).name


def card(artifact: Artifact, repository: str, licence: str = "", costs: Sequence[str] = ()) -> str:
    """The model card, in Markdown with the hubs' metadata in front; `costs` are paragraphs on what quantizing cost.

    Raises ArtifactError for a manifest that does not tell what a card needs.
    """
    try:
        return _card(artifact, repository, licence, costs)
    except (KeyError, TypeError, AttributeError, ValueError):
        raise ArtifactError(_("{path} is damaged.", path=artifact.folder / manifests.FILE)) from None


def _card(artifact: Artifact, repository: str, licence: str, costs: Sequence[str]) -> str:
    manifest = artifact.manifest
    content, statistics = manifest["content"], Statistics(**manifest["statistics"])
    lines = [
        f"# {repository.rpartition('/')[2]}",
        f"{manifest['name']} in {artifact.variant.upper()}, quantized by itrex_chat from {_origin(manifest)}, stored as "
        f"{manifest['source']['stored']}. For CPUs: it answers without the original files.",
        "## How to use it",
        f"    python -m itrex_chat.pull {repository}\n"
        f"    python -m itrex_chat.ask --model {repository} --variants {artifact.variant}",
        "Every file but this one is verified by its SHA-256 in `manifest.json`. transformers with auto-round loads it, too: "
        f"`AutoModelForCausalLM.from_pretrained({repository!r})`.",
        "## How it was made",
        f"{ALGORITHMS[content.get('algorithm', 'rtn')]}, symmetric, {content['weight_dtype']}, {groups_of(content['group_size'], content.get('budget'))}; output head "
        f"{content['head']}; embedding {statistics.embedding}. {statistics.bits_per_weight:.2f} bits per weight. Made with "
        + ", ".join(f"{name} {number}" for name, number in manifest.get("versions", {}).items())
        + ".",
        f"```\n{statistics.table()}\n```",
        "Layout: GPTQ (`qweight`, `qzeros`, `scales`), scales in float16, negative ones included.",
        "## What it cost",
        *(costs or ("Not measured yet: `python -m itrex_chat.measure` and `compare` say it.",)),
        "## Licence",
        f"That of the original model{f': {licence}' if licence else ''}.",
    ]
    return _metadata(manifest, artifact.variant, licence) + "\n\n".join(lines) + "\n"


def _origin(manifest: dict) -> str:
    origin = manifest["source"]["origin"]
    where = origin.get("repository") or Path(str(origin.get("path") or "")).name or origin.get("name")
    hub = {"modelscope": " on ModelScope", "huggingface": " on Hugging Face"}.get(origin["kind"], "")
    commit = f", commit {origin['commit']}" if origin.get("commit") else ""
    return f"{where}{hub}{commit}"


def _metadata(manifest: dict, variant: str, licence: str) -> str:
    """What hubs read, as YAML; JSON's texts are YAML's."""
    source = manifest["recipe"]["source"]
    base = source.get("huggingface") or manifest["source"]["origin"].get("repository")
    known = licence.lower() if licence.lower() in LICENCES else "other"
    values: dict[str, object] = {"license": known}
    if known == "other" and licence:
        values["license_name"] = "".join(c if c.isalnum() or c in ".-" else "-" for c in licence.lower())
    if base:
        values |= {"base_model": base, "base_model_relation": "quantized"}
    if languages := manifest["recipe"].get("languages"):
        values["language"] = list(languages)
    values |= {"pipeline_tag": "text-generation", "tags": ["itrex_chat", variant, "cpu", "auto-round"]}
    return "---\n" + "".join(f"{key}: {json.dumps(value)}\n" for key, value in values.items()) + "---\n\n"
