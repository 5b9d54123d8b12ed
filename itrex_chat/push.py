"""An artifact pushed to a hub, with a model card that says how it was made and what it cost.

python -m itrex_chat.push chatglm3-6b owner/chatglm3-6b-int4 --to modelscope
"""

import argparse
import shutil
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from itrex_chat.foundation import command_line, in_use
from itrex_chat.foundation.errors import ArtifactError, ItrexChatError, RecipeError
from itrex_chat.foundation.harmless import for_markdown_line, tell
from itrex_chat.foundation.language import _, speaking
from itrex_chat.foundation.places import cache_home
from itrex_chat.foundation.units import readable
from itrex_chat.settings import recipe as recipes
from itrex_chat.settings.source_spec import HUBS, REPOSITORY

if TYPE_CHECKING:
    from itrex_chat.artifacts import Artifact
    from itrex_chat.comparison import ModelComparison

PUSHING = ".pushing-"  # begins the name of a folder that is being pushed
FIGURES = {"kld_mean": "mean KL divergence, nats", "same_top": "same likeliest token", "ppl_ratio": "perplexity, ratio"}


def found(name: str) -> "Artifact":
    """The artifact that a name means: a folder's, a key, a path, or a model's with one artifact. Raises ArtifactError."""
    from itrex_chat.artifacts import Artifact, ArtifactStore
    from itrex_chat.artifacts.kept import kept

    if (Path(name) / "manifest.json").is_file():
        return Artifact.open(Path(name))
    store = ArtifactStore()
    meant = [each for each in kept(cache_home()) if each.variant and name in (each.name, *each.names)]
    if len(meant) > 1:
        raise ArtifactError(
            _(
                "{name} means several artifacts; name one: {names}.",
                name=name,
                names=", ".join(each.name for each in meant),
            )
        )
    if not meant:
        known = ", ".join(folder.name for folder in store.folders()) or _("none")
        raise ArtifactError(_("There is no artifact {name} to push. There is: {names}.", name=name, names=known))
    return Artifact.open(meant[0].path)


def costs(artifact: "Artifact") -> list[str]:
    """What runs in the cache say of an artifact, from the newest that compared it, in English; empty where none did."""
    from itrex_chat.comparison import compare_runs
    from itrex_chat.report.verdict import verdicts
    from itrex_chat.runs.identity import artifact_key, artifact_keys
    from itrex_chat.runs.record import RunRecord, existing

    key = artifact_key(artifact.folder.name)
    for run in reversed(existing(cache_home() / "runs")):
        try:
            content = RunRecord.read(run).content
            labels = [label for label, facts in content.models.items() if key in artifact_keys(facts).values()]
            models = {each.model: each for each in compare_runs([run]).models} if labels else {}
        except ItrexChatError:
            continue
        for label in labels:
            if (model := models.get(label)) and model.baseline != artifact.variant:
                with speaking("en"):
                    said = [each.text for each in verdicts(model) if each.variant == artifact.variant]
                    if said:
                        return [*map(for_markdown_line, said), _table(model, artifact.variant), _where(content.machine)]
    return []


def _table(model: "ModelComparison", variant: str) -> str:
    """Both variants' figures side by side, and what was measured token by token."""
    by_name = {figures.variant: figures for figures in model.figures}
    rows: list[tuple[str, ...]] = [("", model.baseline.upper(), variant.upper())]
    for title, field in (
        ("tokens per second", "tokens_per_second"),
        ("peak memory", "peak_memory"),
        ("on disk", "disk_bytes"),
    ):
        values = [getattr(by_name[name], field) for name in (model.baseline, variant)]
        form = "{:.1f}".format if field == "tokens_per_second" else readable
        rows.append((title, *(form(value) if value is not None else "–" for value in values)))
    measured = model.quality.variants.get(variant) if model.quality else None
    if measured and measured.corpora:
        corpus = max(measured.corpora, key=lambda each: each.positions)
        for name, title in FIGURES.items():
            if estimate := corpus.figures.get(name):
                rows.append((f"{title} ({corpus.positions} tokens)", "", f"{estimate.value:.4g}"))
    lines = [f"| {' | '.join(row)} |" for row in rows]
    return "\n".join([lines[0], "|---|---:|---:|", *lines[1:]])


def _where(machine: dict) -> str:
    return for_markdown_line(
        f"On {machine.get('cpu')}, {machine.get('cores')} cores, itrex_chat {machine.get('itrex_chat')}."
    )


def _licence(artifact: "Artifact") -> str:
    """The licence that a recipe of the original model names."""
    origin = artifact.manifest["source"]["origin"].get("repository")
    try:
        return recipes.load(artifact.name).about.licence if not origin else recipes.load(origin).about.licence
    except RecipeError:
        return ""


def command(arguments: argparse.Namespace) -> int:
    from itrex_chat.artifacts.card import card, lay_out

    if not REPOSITORY.fullmatch(arguments.repository):
        raise RecipeError(
            _("{name} is no name of a repository; it should look like owner/name.", name=arguments.repository)
        )
    artifact = found(arguments.artifact)
    artifact.verify()
    text = card(artifact, arguments.repository, arguments.licence or _licence(artifact), costs(artifact))
    if arguments.dry_run:
        folder = arguments.out or cache_home() / "pushed" / arguments.repository.replace("/", "--")
        lay_out(artifact, folder, text)
        tell(_("Nothing was pushed. What would be is in {folder}", folder=folder))
        return 0
    if arguments.out:
        raise RecipeError(_("--out is for --dry-run: it names the folder that would be pushed."))
    from itrex_chat.sources.uploads import upload

    for left in artifact.folder.parent.glob(f"{PUSHING}*"):  # by a process that was killed
        if not in_use.by_another(left):
            shutil.rmtree(left, ignore_errors=True)
    with tempfile.TemporaryDirectory(dir=artifact.folder.parent, prefix=PUSHING) as place:
        in_use.hold(Path(place))
        lay_out(artifact, Path(place) / "artifact", text)
        size = sum(path.stat().st_size for path in (Path(place) / "artifact").iterdir())
        tell(_("Pushing {name}, {size}.", name=artifact.folder.name, size=readable(size)), file=sys.stderr)
        address = upload(Path(place) / "artifact", arguments.to, arguments.repository, arguments.private)
    tell(_("Pushed to {address}", address=address))
    return 0


def main(argv: list[str] | None = None) -> int:
    parser = command_line.parser(
        "push", _("Push an artifact to a hub, with a model card, for others to use as --model.")
    )
    parser.add_argument("artifact", metavar="ARTIFACT", help=_("a model's name, or an artifact's name, key or folder"))
    parser.add_argument("repository", metavar="OWNER/NAME", help=_("the repository; it is made if it is not there"))
    parser.add_argument("--to", choices=HUBS, default=HUBS[0], help=_("which hub; default: {default}", default=HUBS[0]))
    parser.add_argument("--private", action="store_true", help=_("make a new repository private"))
    parser.add_argument("--licence", metavar="NAME", default="", help=_("the original model's licence, for the card"))
    parser.add_argument("--dry-run", action="store_true", help=_("write the folder with the card, push nothing"))
    parser.add_argument(
        "--out", type=Path, metavar="FOLDER", help=_("where to write with --dry-run; default: in the cache")
    )
    return command_line.run(command, parser, argv)


if __name__ == "__main__":
    sys.exit(main())
