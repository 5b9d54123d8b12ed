"""A model that is replaced while it is asked, or between: its answers never come from two models under one name."""

import json
import shutil
from pathlib import Path

import pytest
from executors import InProcess
from safetensors.torch import load_file, save_file

from itrex_chat.artifacts import ArtifactStore, obtain, writer
from itrex_chat.comparison import compare_runs
from itrex_chat.engines import open_session
from itrex_chat.engines.native import weights
from itrex_chat.foundation.errors import RunError, SourceError
from itrex_chat.jobs.event import Done, Prepared
from itrex_chat.runs.asking import ask
from itrex_chat.runs.record import ANSWERS, RUN, RunRecord
from itrex_chat.settings import questions
from itrex_chat.settings import recipe as recipes
from itrex_chat.sources import digests


@pytest.fixture(params=["digests are known", "nothing is hashed"])
def hashed(request, monkeypatch):
    """Whether the files are small enough to be hashed at once; tiny models are, others are not."""
    if request.param == "nothing is hashed":
        monkeypatch.setattr(digests, "SMALL", 0)
    return request.param == "digests are known"


@pytest.fixture
def folder(models, tmp_path):
    return put(models("qwen2"), tmp_path / "model")


def put(model: Path, folder: Path) -> Path:
    shutil.rmtree(folder, ignore_errors=True)
    return Path(shutil.copytree(model, folder))


@pytest.fixture
def asked(folder, tmp_path):
    """A function that asks the model in the folder two questions; the run is in `run`."""
    file = tmp_path / "two.yaml"
    file.write_text("questions:\n  - {id: a, text: x}\n  - {id: b, text: y}\n", "utf-8")

    def asked(*variants: str, executor=None) -> RunRecord:
        recipe = recipes.load(str(folder), ["generation.max_new_tokens", "2"])
        return ask(
            [recipe], list(variants), questions.load(str(file)), tmp_path / "run", executor=executor or InProcess()
        )

    return asked


def interrupted(record: RunRecord) -> list[str]:
    """Its first answer, as if it had been interrupted after it."""
    lines = (record.folder / ANSWERS).read_text("utf-8").splitlines()
    (record.folder / ANSWERS).write_text(lines[0] + "\n", "utf-8")
    return lines[:1]


@pytest.mark.parametrize("variant", ["fp32", "bf16", "int4"])
def test_a_run_does_not_go_on_with_another_model_of_the_same_name(variant, hashed, asked, folder, models, tmp_path):
    first = interrupted(asked(variant))
    put(models("llama"), folder)
    with pytest.raises(RunError, match="its files have changed.*--out"):
        asked(variant)
    assert (tmp_path / "run" / ANSWERS).read_text("utf-8").splitlines() == first


@pytest.mark.parametrize("variant", ["fp32", "bf16", "int4"])
def test_a_run_goes_on_with_the_same_files(variant, hashed, asked):
    record = asked(variant)
    interrupted(record)
    assert len(asked(variant).answers) == 2


def test_what_is_in_the_files_counts_where_it_is_known(asked, folder, models):
    interrupted(asked("fp32"))
    put(models("qwen2"), folder)  # other inodes and times
    assert len(asked("fp32").answers) == 2


def test_fp32_is_asked_without_hashing_large_files(asked, monkeypatch):
    def refuse(*_arguments):
        raise AssertionError("a large file was hashed")

    monkeypatch.setattr(digests, "SMALL", 0)
    monkeypatch.setattr(digests, "sha256", refuse)
    interrupted(asked("fp32", "bf16"))
    assert len(asked("fp32", "bf16").answers) == 4


def test_the_record_says_which_files_each_variant_was_of(asked, tmp_path):
    facts = asked("fp32", "bf16", "int4").model("model").variants
    found = {name: variant.load.files for name, variant in facts.items()}
    assert len({files.digest for files in found.values()}) == 1 and found["fp32"].digest
    assert found["fp32"].stamp == found["bf16"].stamp is not None


def test_a_record_of_the_version_before_goes_on(asked, tmp_path):
    interrupted(asked("fp32"))
    run = tmp_path / "run" / RUN
    content = json.loads(run.read_text("utf-8"))
    del content["models"]["model"]["variants"]["fp32"]["load"]["files"]
    run.write_text(json.dumps(content), "utf-8")
    assert len(asked("fp32").answers) == 2


class Replacing(InProcess):
    """Puts another model in the place of the first when a kind of event has come."""

    def __init__(self, after: type, model: Path, folder: Path):
        super().__init__()
        self._after, self._model, self._folder = after, model, folder

    def run(self, job):
        for event in super().run(job):
            if isinstance(event, self._after) and self._model is not None:
                put(self._model, self._folder)
                self._model = None
            yield event


def states(record: RunRecord) -> dict[str, str]:
    return {name: facts.state for name, facts in record.model("model").variants.items()}


@pytest.mark.parametrize("second", ["bf16", "int4"])
def test_a_model_that_is_replaced_between_two_variants_is_not_asked_any_more(second, hashed, asked, folder, models):
    record = asked("fp32", second, executor=Replacing(Done, models("llama"), folder))
    reason = record.model("model").variants[second].reason
    assert {answer.variant for answer in record.answers} == {"fp32"} and states(record)["fp32"] == "done"
    assert states(record)[second] == "failed" and "its files have changed" in reason


def test_a_model_that_is_replaced_after_it_was_prepared_is_not_asked(hashed, asked, folder, models):
    record = asked("fp32", "bf16", executor=Replacing(Prepared, models("llama"), folder))
    assert record.answers == [] and set(states(record).values()) == {"failed"}


def test_a_model_that_is_replaced_while_it_is_loaded_is_named(folder, models, monkeypatch):
    load = weights.load_dense

    def replaced(*arguments):
        put(models("qwen2"), folder)
        return load(*arguments)

    monkeypatch.setattr(weights, "load_dense", replaced)
    with pytest.raises(SourceError, match="changed while it was read"):
        open_session(recipes.load(str(folder)), "fp32")


def test_a_model_that_is_replaced_while_it_is_quantized_becomes_no_artifact(folder, monkeypatch):
    write = writer._write_weights

    def replaced(*arguments):
        file = folder / "model.safetensors"
        save_file({name: 2 * tensor for name, tensor in load_file(file).items()}, file)
        return write(*arguments)

    monkeypatch.setattr(writer, "_write_weights", replaced)
    recipe = recipes.load(str(folder))
    with pytest.raises(SourceError, match="changed while it was read"):
        obtain(recipe)
    assert ArtifactStore().folders() == []
    [partial] = ArtifactStore().partial_folders()
    assert list(partial.glob("*.safetensors")) == []  # which a later writing would go on with


def test_runs_of_fp32_are_joined_by_what_is_in_the_files(asked, folder, models, tmp_path):
    asked("fp32")
    first = (tmp_path / "run").rename(tmp_path / "first")
    moved = tmp_path / "elsewhere" / "model"
    moved.parent.mkdir()
    folder.rename(moved)
    recipe = recipes.load(str(moved), ["generation.max_new_tokens", "2"])
    same = questions.load(str(tmp_path / "two.yaml"))
    ask([recipe], ["fp32"], same, tmp_path / "second", executor=InProcess())
    assert len(compare_runs([first, tmp_path / "second"]).models) == 1
    put(models("llama"), moved)
    ask([recipe], ["fp32"], same, tmp_path / "third", executor=InProcess())
    with pytest.raises(RunError, match="compare them apart"):
        compare_runs([first, tmp_path / "third"])
