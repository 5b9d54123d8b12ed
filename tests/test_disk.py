"""What lies on the disk: shown with what needs it, freed after a question, and never while another process uses it."""

import hashlib
import json
import os
import shutil
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import pytest
import standin_hub
from moments import until
from standin_hub import REPOSITORY, StandinHub, StandinServer

from itrex_chat import cache, pull, sources
from itrex_chat import models as offering
from itrex_chat.artifacts import Artifact, ArtifactStore, obtain
from itrex_chat.artifacts import manifest as manifests
from itrex_chat.foundation import bandwidth, in_use, kept, machine, space
from itrex_chat.foundation.errors import ArtifactError, SourceError
from itrex_chat.runs.record import RUN
from itrex_chat.settings import recipe as recipes

DAY = 86400


@pytest.fixture(autouse=True)
def _no_environments(monkeypatch):
    """Those that tests of other engines may share are neither listed nor removed here."""
    monkeypatch.delenv("ITREX_CHAT_ENGINES", raising=False)


@pytest.fixture(scope="module")
def address():
    return StandinServer()


@pytest.fixture
def hub(address, models, monkeypatch):
    """The stand-in with a tiny Qwen2, for this process and those that it starts."""
    for variable in ("MODELSCOPE_ENDPOINT", "HF_ENDPOINT"):
        monkeypatch.setenv(variable, address.endpoint)
    address.hub = StandinHub({path.name: path.read_bytes() for path in models("qwen2").iterdir()})
    yield address.hub
    address.hub.release()


@pytest.fixture(scope="module")
def filled(address, models, tmp_path_factory):
    """A cache with the stand-in's model, quantized."""
    address.hub = StandinHub({path.name: path.read_bytes() for path in models("qwen2").iterdir()})
    folder = tmp_path_factory.mktemp("filled") / "cache"
    with pytest.MonkeyPatch.context() as here:
        for variable in ("MODELSCOPE_ENDPOINT", "HF_ENDPOINT"):
            here.setenv(variable, address.endpoint)
        obtain(recipes.load(REPOSITORY), folder)
    return folder


@pytest.fixture
def artifact(hub, filled, home):
    """The artifact of the stand-in's model, and its originals beside it."""
    shutil.copytree(filled, home)
    [folder] = ArtifactStore().folders()
    return Artifact.open(folder)


def listed(capsys) -> dict:
    capsys.readouterr()
    assert cache.main(["--json"]) == 0
    return json.loads(capsys.readouterr().out)


def by_kind(capsys) -> dict[str, list[dict]]:
    found: dict[str, list[dict]] = {}
    for each in listed(capsys)["kept"]:
        found.setdefault(each["kind"], []).append(each)
    return found


def aged(path: Path, days: float) -> None:
    """A folder that was used last so many days ago."""
    then = time.time() - days * DAY
    for each in [*path.rglob("*"), path]:
        os.utime(each, (then, then))


def a_run(home: Path, name: str) -> Path:
    folder = home / "runs" / name
    folder.mkdir(parents=True)
    (folder / RUN).write_text("{}", "utf-8")
    return folder


def test_originals_and_artifacts_are_listed_with_sizes_and_what_needs_them(artifact, hub, home, capsys):
    found = by_kind(capsys)
    [originals], [made] = found["originals"], found["artifacts"]
    assert originals["name"].startswith(f"{REPOSITORY}@") and originals["needed_by"] == [artifact.folder.name]
    assert made["needs"] == [originals["name"]] and made["variant"] == "int4"
    assert originals["bytes"] == sum(
        path.stat().st_size for path in Path(originals["path"]).iterdir() if path.is_file()
    )
    assert cache.main([]) == 0
    shown = capsys.readouterr().out
    assert "INT4 answers without these" in shown and "FP32 and BF16 need them" in shown
    assert "INT4 needs it; made again in" in shown and "today" in shown


def test_without_its_originals_an_artifact_says_what_it_would_cost(artifact, capsys):
    assert cache.main(["remove", REPOSITORY, "--yes"]) == 0
    assert cache.main([]) == 0
    assert "would have to be downloaded" in capsys.readouterr().out


def test_originals_of_nothing_say_that_every_variant_needs_them(hub, capsys):
    sources.resolve(recipes.load(REPOSITORY))
    assert cache.main([]) == 0
    assert "every variant needs it" in capsys.readouterr().out


def test_runs_measurements_environments_and_logs_are_listed(home, capsys):
    a_run(home, "20260101-000000")
    for place in (
        "quality/reference/abc",
        "environments/peer",
        "engines/itrex",
        "benchmarks/results",
        "logs",
        "sweeps/x",
    ):
        (home / place).mkdir(parents=True)
        (home / place / "file").write_bytes(bytes(1000))
    kinds = {kind: [each["bytes"] for each in found] for kind, found in by_kind(capsys).items()}
    assert kinds.pop("runs") == [2] and kinds.pop("environments") == [1000, 1000]
    assert kinds == {kind: [1000] for kind in ("measurements", "benchmarks", "logs", "reports")}


def test_what_is_there_under_two_names_counts_once(tmp_path):
    first, second = tmp_path / "first", tmp_path / "second"
    first.mkdir(), second.mkdir()
    (first / "file").write_bytes(bytes(1000))
    os.link(first / "file", second / "file")
    assert kept.size([first, second]) == 1000
    assert (kept.freed([first]), kept.freed([first, second])) == (0, 1000)


def test_nothing_is_removed_without_yes_where_nobody_can_be_asked(artifact, capsys):
    assert cache.main(["remove", artifact.folder.name]) == 1
    shown = capsys.readouterr()
    assert "--yes" in shown.err and "1 to remove" in shown.out and artifact.folder.exists()


@pytest.mark.parametrize("answer, code", [("y\n", 0), ("\n", 1)])
def test_at_a_terminal_the_user_is_asked(answer, code, artifact):
    import pty

    parent, child = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "itrex_chat.cache", "remove", artifact.folder.name],
        stdin=child,
        stdout=child,
        stderr=child,
        start_new_session=True,
    )
    os.close(child)
    os.write(parent, answer.encode())
    assert process.wait(60) == code
    os.close(parent)
    assert artifact.folder.exists() == bool(code)


def test_a_dry_run_removes_nothing(artifact, capsys):
    assert cache.main(["remove", "originals", artifact.folder.name, "--dry-run"]) == 0
    assert "2 to remove" in capsys.readouterr().out and artifact.folder.exists()


def test_a_kind_a_model_and_a_repository_are_names(artifact, home):
    run = a_run(home, "20260101-000000")
    assert cache.main(["remove", "originals", "--yes"]) == 0
    assert not list((home / "sources" / "hubs").glob("*/*/config.json")) and artifact.folder.exists()
    assert cache.main(["remove", "model", "runs", "--yes"]) == 0
    assert not artifact.folder.exists() and not run.exists()


def test_removed_originals_come_again_at_the_commit_that_was_found_first(artifact, hub, capsys):
    config = json.loads(hub.files["config.json"])
    hub.push(hub.files | {"config.json": json.dumps(config | {"eos_token_id": 3}).encode()})
    assert cache.main(["remove", REPOSITORY, "--yes"]) == 0
    again = sources.resolve(recipes.load(REPOSITORY))
    assert again.origin["commit"] != hub.head.sha


HOLD = """
import sys
from itrex_chat import sources
from itrex_chat.artifacts import obtain
from itrex_chat.settings import recipe as recipes
recipe = recipes.load(sys.argv[1])
obtain(recipe)
sources.resolve(recipe)
print("holding", flush=True)
sys.stdin.read()
"""


def test_what_another_process_uses_stays(artifact, capsys):
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, REPOSITORY], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdout.readline() == "holding\n"
        assert {each["in_use"] for each in listed(capsys)["kept"]} == {True}
        assert cache.main(["remove", "originals", "artifacts", "--yes"]) == 1
        assert capsys.readouterr().err.count("Another process is using") == 2
        assert cache.main(["prune", "--keep", "0", "--yes"]) == 1
        assert len(listed(capsys)["kept"]) == 2
        other.stdin.close()
    until(lambda: not in_use.by_another(artifact.folder))
    assert cache.main(["remove", "originals", "artifacts", "--yes"]) == 0
    assert listed(capsys)["kept"] == []


def test_prune_takes_what_was_not_used_for_long_and_keeps_what_is_named(artifact, home, capsys):
    originals = next((home / "sources" / "hubs").glob("*/*/config.json")).parent
    aged(originals, 40), aged(artifact.folder, 40)
    assert cache.main(["prune", "--older-than", "50d", "--yes"]) == 0
    assert cache.main(["prune", "--older-than", "30d", "--keep", artifact.folder.name, "--yes"]) == 0
    assert artifact.folder.exists() and not originals.exists()
    obtain(recipes.load(REPOSITORY))  # which is a use
    assert cache.main(["prune", "--older-than", "1d", "--yes"]) == 0 and artifact.folder.exists()


def test_prune_keeps_the_newest_of_each_kind(models, home):
    first, second = (
        obtain(recipes.load(str(models("qwen2")), ["quantization.group_size", size])).artifact.folder
        for size in ("32", "64")
    )
    aged(first, 3), aged(second, 2)
    assert cache.main(["prune", "--keep", "1", "--yes"]) == 0
    assert not first.exists() and second.exists()


def test_prune_leaves_runs_unless_they_are_named(home):
    run = a_run(home, "20260101-000000")
    aged(run, 400)
    assert cache.main(["prune", "--older-than", "30d", "--yes"]) == 0 and run.exists()
    assert cache.main(["prune", "runs", "--older-than", "30d", "--yes"]) == 0 and not run.exists()


def test_prune_leaves_what_could_not_be_made_again(models, tmp_path, capsys):
    artifact = obtain(recipes.load(str(models("qwen2")))).artifact
    manifest = artifact.manifest
    manifest["source"]["origin"]["path"] = str(tmp_path / "gone")
    manifests.write(artifact.folder, manifest)
    assert cache.main(["prune", "--keep", "0", "--yes"]) == 0 and artifact.folder.exists()
    assert cache.main([]) == 0 and "cannot be made again" in capsys.readouterr().out


@pytest.mark.parametrize(
    "arguments, sentence",
    [
        (["prune"], "Say what goes"),
        (["prune", "--older-than", "soon"], "soon is no age"),
        (["prune", "orignals", "--keep", "1"], "Did you mean originals"),
        (["prune", "--keep", "nothing"], "nothing by the name nothing"),
    ],
)
def test_what_prune_does_not_understand_is_said(arguments, sentence, capsys):
    assert cache.main(arguments) == 1
    assert sentence in capsys.readouterr().err


def test_originals_and_what_is_made_of_them_are_hashed_once(hub, home, monkeypatch):
    """While they come: not again for the artifact's key, nor by the commands that come later, nor for a newer commit."""
    hashed, lengths, sha256 = Counter(), [], hashlib.sha256

    class Counted:
        def __init__(self, data: bytes = b""):
            self.real = sha256()
            self.update(data)

        def update(self, data: bytes) -> None:
            self.real.update(data)
            lengths.append(len(data))

        def hexdigest(self) -> str:
            hashed[self.real.hexdigest()] += 1
            return self.real.hexdigest()

    monkeypatch.setattr(standin_hub, "hashlib", SimpleNamespace(sha1=hashlib.sha1, sha256=sha256))
    monkeypatch.setattr(hashlib, "sha256", Counted)
    assert pull.main([REPOSITORY]) == 0
    [originals], [artifact] = (home / "sources" / "hubs").glob("*/*/"), ArtifactStore().folders()
    made = [sha256(path.read_bytes()).hexdigest() for path in artifact.glob("*.safetensors")]
    weights = [sha256(path.read_bytes()).hexdigest() for path in originals.glob("*.safetensors")]
    assert weights and made and [hashed[digest] for digest in weights + made] == [1] * len(weights + made)
    assert sum(lengths) < 1.1 * kept.size([originals, artifact])
    assert pull.main([REPOSITORY, "--for", "int8,fp32"]) == 0
    hub.push(hub.files | {"generation_config.json": b'{"eos_token_id": 2}'})
    assert pull.main([REPOSITORY, "--refresh"]) == 0
    assert pull.main([REPOSITORY, "--for", "int8"]) == 0
    assert not originals.exists() and [hashed[digest] for digest in weights] == [1] * len(weights)


def test_refresh_leaves_no_orphan(artifact, hub, home, capsys):
    config = json.loads(hub.files["config.json"])
    hub.push(hub.files | {"config.json": json.dumps(config | {"max_position_embeddings": 64}).encode()})
    new = obtain(recipes.load(REPOSITORY), refresh=True).artifact
    found = by_kind(capsys)
    [originals] = found["originals"]
    assert hub.head.sha.startswith(originals["name"].partition("@")[2])
    assert len(list((home / "sources" / "hubs").glob("*/*/config.json"))) == 1
    told = {each["name"]: each["needed"] for each in found["artifacts"]}
    assert "an older state" in told[artifact.folder.name] and "made again in" in told[new.folder.name]


def test_refresh_leaves_the_commit_that_another_revision_needs(hub, home):
    old = hub.head.sha
    pinned = recipes.load(REPOSITORY, ["source.revision", old])
    kept_folder = sources.resolve(pinned).folder
    config = json.loads(hub.files["config.json"])
    hub.push(hub.files | {"config.json": json.dumps(config | {"max_position_embeddings": 64}).encode()})
    sources.resolve(recipes.load(REPOSITORY), refresh=True)
    assert (kept_folder / "config.json").exists() and sources.at_hand(pinned)


def test_a_full_disk_names_what_could_be_freed(artifact, hub, home, monkeypatch):
    monkeypatch.setattr(space, "WORTH_NAMING", 0)
    monkeypatch.setattr(space.shutil, "disk_usage", lambda path: Usage)
    with pytest.raises(ArtifactError, match=f"needs .* more, .*cache remove NAME: .*{REPOSITORY} "):
        obtain(recipes.load(REPOSITORY, ["quantization.group_size", "64"]))
    assert cache.main(["remove", REPOSITORY, "--yes"]) == 0
    with pytest.raises(
        SourceError, match=f"Downloading .* needs .* more, .*cache remove NAME: .*{artifact.folder.name} "
    ):
        sources.resolve(recipes.load(REPOSITORY))


class Usage:
    free = 1000


def test_an_unfinished_artifact_is_listed_and_can_be_removed(home, capsys):
    partial = home / "artifacts" / "model-int4_fullrange-g32-0123456789ab.partial"
    partial.mkdir(parents=True)
    assert cache.main([]) == 0 and "not finished" in capsys.readouterr().out
    assert cache.main(["remove", "model", "--yes"]) == 0 and ArtifactStore().partial_folders() == []


def test_models_tell_what_a_recipe_takes_and_what_of_it_is_here(artifact, home, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(bandwidth, "measured", lambda threads: 40e9)
    monkeypatch.setattr(machine, "available_memory", lambda: 5 << 30)
    mine = tmp_path / "mine.yaml"
    mine.write_text(
        f"source: {{modelscope: {REPOSITORY}}}\nabout: {{licence: mit, blocks: 0.1, embedding: 0.01}}\n", "utf-8"
    )
    assert offering.main(["--json", "chatglm3-6b", "qwen-7b-chat", str(mine)]) == 0
    told = json.loads(capsys.readouterr().out)["models"]
    assert [(model["name"], model["fits"]) for model in told] == [
        ("chatglm3-6b", True),
        ("mine", True),
        ("qwen-7b-chat", False),
    ]
    chatglm, own, _qwen = told
    assert (chatglm["download"], chatglm["context"], chatglm["artifact"]) == (12_500_000_000, 8192, 0)
    assert 4e9 < chatglm["memory"] < 5e9 and 9 < chatglm["speed"] < 12.5  # README.md: 12.5 with 43 to 48 GB/s
    assert own["artifact"] == kept.size([artifact.folder]) and own["originals"] > 0 and own["licence"] == "mit"
    assert offering.main(["--json", "--for", "fp32", "chatglm3-6b", str(mine)]) == 0
    chatglm, own = sorted(json.loads(capsys.readouterr().out)["models"], key=lambda model: model["name"])
    assert chatglm["variant"] == "fp32" and not chatglm["fits"] and 12.5e9 < chatglm["memory"] < 13.5e9
    assert 2.5 < chatglm["speed"] < 3.5 and own["memory"] > 800e6  # 16-bit weights, read whole for each token
    assert offering.main([]) == 0
    shown = capsys.readouterr().out.splitlines()
    assert len(shown) == len(recipes.names()) + 3 and shown.index("too large for now:") > 1 and "5.37 GB" in shown[-1]


def test_the_bandwidth_is_measured_once_and_the_larger_value_stays(home, monkeypatch):
    monkeypatch.setattr(machine, "waited_for_cores", lambda: None)
    rates = iter([40e9, 30e9, 50e9])
    monkeypatch.setattr(bandwidth, "measured", lambda threads: next(rates))
    assert [bandwidth.remembered(home).rate for _time in range(2)] == [40e9, 40e9]
    monkeypatch.setattr(bandwidth, "DAY", 0)
    assert [bandwidth.remembered(home).rate for _time in range(2)] == [40e9, 50e9]


@pytest.mark.parametrize("kept", [[float("inf"), 0], [-1, 0], [50e9, 1e12], [float("nan"), 1e12], "ab", None, 5])
def test_a_bandwidth_that_cannot_be_or_was_kept_in_the_future_is_measured(kept, home, monkeypatch):
    monkeypatch.setattr(machine, "waited_for_cores", lambda: None)
    monkeypatch.setattr(bandwidth, "measured", lambda threads: 40e9)
    home.mkdir()
    here = f"{machine.cpu_name()}, {machine.threads()}"
    (home / bandwidth.FILE).write_text(json.dumps({here: kept}), "utf-8")
    monkeypatch.setattr(time, "time", lambda: 1e9)
    assert bandwidth.remembered(home).rate in (40e9, 50e9)
    assert json.loads((home / bandwidth.FILE).read_text("utf-8"))[here][1] == 1e9


def test_a_bandwidth_that_others_disturbed_is_not_remembered(home, monkeypatch):
    waited = iter([0.0, 1e6, 1e6, 1e6])
    monkeypatch.setattr(machine, "waited_for_cores", lambda: next(waited))
    rates = iter([10e9, 40e9])
    monkeypatch.setattr(bandwidth, "measured", lambda threads: next(rates))
    assert bandwidth.remembered(home) == bandwidth.Bandwidth(10e9, disturbed=True)
    assert bandwidth.remembered(home) == bandwidth.Bandwidth(40e9)


def test_memory_is_read_at_some_rate(monkeypatch):
    monkeypatch.setattr(bandwidth, "LARGE", bandwidth.SMALL)
    assert bandwidth.measured(2) > 1e8


def test_what_engines_prepared_is_listed_and_goes_with_its_model(home, capsys):
    view, record = home / "itrex" / "views" / "model-0123456789ab", home / "itrex" / "saved" / "model-int4-abc.json"
    view.mkdir(parents=True), record.parent.mkdir(parents=True)
    for file in (view / "rest.safetensors", record, record.with_suffix(".safetensors")):
        file.write_bytes(bytes(100))
    assert sorted(each["bytes"] for each in by_kind(capsys)["prepared"]) == [100, 200]
    assert cache.main(["remove", "model", "--yes"]) == 0
    assert not view.exists() and not list(record.parent.glob("*.[js]*"))


def test_an_environment_that_was_made_goes_with_what_is_known_of_it(home, capsys):
    folder = home / "engines" / "itrex"
    folder.mkdir(parents=True)
    (folder.parent / "itrex.json").write_text(
        json.dumps({"python": "x", "adopted": False, "lock": "", "facts": {}}), "utf-8"
    )
    assert cache.main(["remove", "environments", "--yes"]) == 0
    assert not folder.exists() and not (folder.parent / "itrex.json").exists()


def test_a_process_holds_no_more_folders_than_it_may_have_files_open(tmp_path):
    folders = [tmp_path / str(number) for number in range(in_use.MOST + 20)]
    before = len(os.listdir("/proc/self/fd"))
    for folder in folders:
        folder.mkdir()
        in_use.hold(folder)
    assert len(os.listdir("/proc/self/fd")) <= before + in_use.MOST
    for folder in folders:
        in_use.let_go(folder)
