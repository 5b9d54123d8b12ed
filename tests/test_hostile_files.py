"""Files, disks and terminals that do not do what one expects: each is a sentence, and nothing of somebody else's is lost."""

import errno
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from itrex_chat import cache, sources
from itrex_chat.artifacts import ArtifactStore, obtain
from itrex_chat.artifacts.store import PARTIAL
from itrex_chat.artifacts.writer import PROGRESS
from itrex_chat.chat import load_tokenizer
from itrex_chat.checkpoints import open_checkpoint
from itrex_chat.foundation import files
from itrex_chat.foundation.errors import QuestionSetError, RecipeError, RunError, SourceError, TokenizerError
from itrex_chat.jobs.passage import Passage
from itrex_chat.quality import record as quality_record
from itrex_chat.quality.store import Parts
from itrex_chat.runs.display import Display
from itrex_chat.runs.record import ANSWERS, RUN, RunRecord
from itrex_chat.settings import questions
from itrex_chat.settings import recipe as recipes
from itrex_chat.settings.source_spec import SourceSpec


def made(folder, *settings):
    return obtain(recipes.load(str(folder), list(settings))).artifact


def test_what_a_killed_removal_left_is_no_artifact_any_more(models):
    first = made(models("qwen2"))
    key, folder = first.manifest["key"], first.folder
    os.replace(folder, folder.with_name(f".removed-1-{folder.name}"))  # as of a process that was killed here
    store = ArtifactStore()
    assert store.find(key) is None and store.folders() == []
    again = made(models("qwen2"))
    assert again.folder == folder and store.folders() == [folder]
    other = made(models("qwen2"), "quantization.group_size", "64")
    store.remove(other.folder)
    assert store.folders() == [folder] and made(models("qwen2")).folder == folder


def test_what_a_killed_removal_left_of_an_unfinished_artifact_is_none_either(tmp_path):
    (tmp_path / "artifacts" / ".removed-1-name-int4-g32-0123.partial").mkdir(parents=True)
    assert ArtifactStore(tmp_path).partial_folders() == []


def test_a_removal_goes_on_where_a_process_of_the_same_number_was_killed(models):
    folder = made(models("qwen2")).folder
    shutil.copytree(folder, folder.with_name(f".removed-{os.getpid()}-{folder.name}"))
    ArtifactStore().remove(folder)
    assert list(folder.parent.glob("*qwen2*")) == list(folder.parent.glob(".removed-*")) == []


def test_two_artifacts_with_each_others_names_still_answer_for_themselves(models):
    first, second = made(models("qwen2")), made(models("llama"))
    spare = first.folder.with_name("spare")
    for old, new in ((first.folder, spare), (second.folder, first.folder), (spare, second.folder)):
        os.replace(old, new)
    assert made(models("qwen2")).manifest["key"] == first.manifest["key"]
    assert made(models("llama")).manifest["key"] == second.manifest["key"]
    assert cache.main(["verify"]) == 0


def test_an_artifact_under_anothers_name_is_not_written_over(models):
    first = made(models("qwen2"))
    place = first.folder
    ArtifactStore().remove(place)
    second = made(models("llama"))
    os.replace(second.folder, place)
    again = made(models("qwen2"))
    assert again.manifest["key"] == first.manifest["key"] and again.folder != place
    assert made(models("llama")).folder == place


@pytest.mark.parametrize(
    "progress", ["5", "[1, 2]", '"ab"', '[["../model.safetensors", 1]]', "[[[], 1]]", "null", "{", '{"a": []}']
)
def test_what_says_how_far_a_quantization_came_may_be_anything(progress, models, home):
    recipe = recipes.load(str(models("llama")))
    whole = obtain(recipe).artifact
    partial = whole.folder.with_name(whole.folder.name + PARTIAL)
    whole.folder.rename(partial)
    (partial / PROGRESS).write_text(progress, "utf-8")
    assert obtain(recipe).artifact.manifest["files"] == whole.manifest["files"]


def test_a_model_with_a_long_chinese_name_is_kept(models, tmp_path):
    folder = shutil.copytree(models("qwen2"), tmp_path / ("模" * 80))
    assert made(folder).folder.name.startswith("模" * 26)


LOCALES = [
    {"PYTHONIOENCODING": "gbk"},
    {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
    {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "ITREX_CHAT_LANG": "zh"},
]


@pytest.fixture
def asked(tmp_path):
    """One question in Chinese."""
    file = tmp_path / "one.yaml"
    file.write_text("questions:\n  - {id: a, text: 你好}\n", "utf-8")
    return file


def ask(model, asked, out, **options):
    command = [
        sys.executable,
        "-m",
        "itrex_chat.ask",
        "--model",
        str(model),
        "--prompts",
        str(asked),
        "--out",
        str(out),
    ]
    command += ["--variants", "int4", "--max-new-tokens", "2"]
    return subprocess.run(command, capture_output=True, **options)


@pytest.fixture(scope="session")
def gbk(tmp_path_factory):
    """The variables of a Chinese locale that is not UTF-8."""
    folder = tmp_path_factory.mktemp("locales")
    try:
        subprocess.run(["localedef", "-c", "-i", "zh_CN", "-f", "GBK", folder / "zh_CN.GBK"], check=True)
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"the locale zh_CN.GBK cannot be made (Debian: apt install locales): {error}")
    return {"LOCPATH": str(folder), "LC_ALL": "zh_CN.GBK", "ITREX_CHAT_LANG": ""}


def test_names_questions_and_messages_are_chinese_in_a_locale_that_is_not_utf8(models, asked, tmp_path, gbk):
    there = Path(os.fsdecode(os.fsencode(tmp_path) + "/中文".encode("gbk")))
    there.mkdir()
    model, questions = shutil.copytree(models("qwen2"), there / "model"), shutil.copy(asked, there)
    variables = os.environ | gbk | {"ITREX_CHAT_CACHE": str(there / "cache")}
    asking = ask(model, questions, there / "run", env=variables)
    assert asking.returncode == 0, asking.stderr.decode("gbk")
    assert "你好" in asking.stdout.decode("gbk") and "1 个回答" in asking.stdout.decode("gbk")
    assert len(RunRecord.read(there / "run").answers) == 1


@pytest.mark.parametrize("variables", LOCALES)
def test_questions_are_asked_in_a_locale_that_is_not_utf8(models, asked, tmp_path, variables):
    asking = ask(models("qwen2"), asked, tmp_path / "run", env=os.environ | variables)
    assert asking.returncode == 0, asking.stderr
    [answer] = RunRecord.read(tmp_path / "run").answers
    assert answer.new_tokens == 2


@pytest.mark.parametrize("number", [*set(errno.errorcode) - {errno.EINTR, errno.EAGAIN, errno.ETIMEDOUT}])
def test_whatever_a_disk_says_is_a_sentence(number):
    try:
        problem = OSError(number, os.strerror(number), "/somewhere")
        with files.disk_errors(RunError, "Writing"):
            raise problem
    except RunError as error:
        assert re.fullmatch(r"Writing failed: .+\.", str(error))
    except (ConnectionError, ChildProcessError):
        pass  # not of a disk


def test_a_disk_that_is_full_for_a_library_in_rust_is_a_sentence():
    from safetensors import SafetensorError

    with pytest.raises(RunError, match="no space left"), files.disk_errors(RunError, "Writing"):
        raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")


def test_a_full_disk_when_a_record_is_saved_is_a_sentence(tmp_path, monkeypatch):
    record = RunRecord.start(tmp_path / "run", {"models": [], "variants": None, "questions": None})

    def full(path, value):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(files, "write_json", full)
    with pytest.raises(RunError, match="no space left"):
        record.save()
    record.close()


def unreadable(path, kind):
    if kind == "folder":
        path.mkdir()
    elif kind == "loop":
        path.symlink_to(path)
    elif kind == "pipe":
        os.mkfifo(path)
    else:
        path.symlink_to("/proc/self/mem")  # opened, but not read


@pytest.mark.parametrize("kind", ["folder", "loop", "pipe", "memory"])
@pytest.mark.parametrize("name", [RUN, ANSWERS, quality_record.FILE])
def test_a_record_that_cannot_be_read_is_a_sentence(tmp_path, kind, name):
    run = tmp_path / "run"
    RunRecord.start(run, {"models": [], "variants": None, "questions": None}).close()
    (run / name).unlink(missing_ok=True)
    unreadable(run / name, kind)
    with pytest.raises(RunError, match=re.escape(str(run))):
        RunRecord.read(run)
        quality_record.read(run)


@pytest.mark.parametrize(
    "name",
    ["~nosuchuser", "~nosuchuser/x.yaml", "模" * 200, "a" * 5000, "a\0b", "\udcff", "x\udcff/y", "\ud800", "loop.yaml"],
)
def test_a_name_that_no_file_can_have_is_a_sentence(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    unreadable(tmp_path / "loop.yaml", "loop")
    with pytest.raises(RecipeError):
        recipes.load(name)
    with pytest.raises(QuestionSetError):
        questions.load(name)
    with pytest.raises(RunError):
        RunRecord.read(Path(name))


def test_a_cache_whose_name_is_not_utf8_is_used(models, tmp_path, monkeypatch):
    monkeypatch.setenv("ITREX_CHAT_CACHE", os.fsdecode(os.fsencode(tmp_path) + b"/\xc4\xe3"))
    artifact = made(models("qwen2"))
    assert artifact.tensor("model.norm.weight").shape == (64,)
    passage = Passage("c", "n", (1, 2, 3), 1)
    parts = Parts("scores", "key")
    parts.write(passage, {"kl": np.arange(2.0)})
    assert [list(found["kl"]) for found in parts.all([passage])] == [[0.0, 1.0]]


@pytest.mark.parametrize("family", ["qwen2", "baichuan2"])  # safetensors, pickles
def test_weights_in_a_folder_whose_name_is_not_utf8_are_read(models, tmp_path, family):
    folder = Path(shutil.copytree(models(family), os.fsdecode(os.fsencode(tmp_path) + b"/\xc4\xe3")))
    here, there = (open_checkpoint(sources.local(each)) for each in (models(family), folder))
    name = here.specs()[0].name
    assert torch.equal(here.rows(name, 0, 9), there.rows(name, 0, 9))


def test_a_folder_whose_name_is_not_utf8_is_a_sentence(models, asked, tmp_path):
    folder = shutil.copytree(models("qwen2"), os.fsdecode(os.fsencode(tmp_path) + b"/\xff"))
    asking = ask(folder, asked, tmp_path / "run")
    assert asking.returncode == 1 and asking.stderr.count(b"\n") == 1 and b"another name" in asking.stderr


@pytest.mark.parametrize("end", [">&-", "2>&-", ">&- 2>&-", "<&-"])
def test_closed_streams_hurt_nothing(models, asked, tmp_path, end):
    command = shlex.join(
        [sys.executable, "-m", "itrex_chat.ask", "--model", str(models("qwen2")), "--prompts", str(asked)]
    )
    options = f"--variants int4 --max-new-tokens 2 --out {tmp_path / 'run'}"
    run = subprocess.run(f"{command} {options} {end}", shell=True, capture_output=True, text=True)
    assert run.returncode == 0 and "Traceback" not in run.stderr, run.stderr
    assert len(RunRecord.read(tmp_path / "run").answers) == 1


def test_a_program_without_standard_output_may_ask(monkeypatch):
    """As one of `pythonw` or of a service is: Python has None there."""
    monkeypatch.setattr(sys, "stdout", None)
    Display().model("m", "two", 2)


def test_a_working_folder_that_was_deleted_is_a_sentence_or_no_matter(tmp_path):
    folder = tmp_path / "gone"
    folder.mkdir()
    script = f"cd {folder} && rmdir {folder} && ITREX_CHAT_CACHE=relative {sys.executable} -m itrex_chat.cache"
    variables = os.environ | {"PYTHONPATH": str(Path(cache.__file__).parents[1])}
    run = subprocess.run(script, shell=True, capture_output=True, text=True, env=variables)
    assert run.returncode == 1 and run.stderr == (
        "itrex_chat: The working folder does not exist any more; change to another one.\n"
    )


@pytest.mark.parametrize("kind", ["pipe", "memory", "long"])
def test_a_model_s_place_that_is_no_file_is_a_sentence_and_not_waited_for(tmp_path, kind):
    path = tmp_path / ("模" * 200 if kind == "long" else "model.gguf")
    if kind != "long":
        unreadable(path, kind)
    with pytest.raises(SourceError):
        sources.local(path)
    source = SourceSpec(path=str(path))
    assert ArtifactStore().made_from(recipes.Recipe("x", source)) is None


def test_a_vocabulary_that_is_a_pipe_is_not_waited_for(models, tmp_path):
    folder = Path(shutil.copytree(models("qwen"), tmp_path / "copy"))
    (folder / "qwen.tiktoken").unlink()
    unreadable(folder / "qwen.tiktoken", "pipe")
    with pytest.raises(TokenizerError, match="cannot be read"):
        load_tokenizer(folder, "qwen")


def test_a_text_that_never_ends_is_not_measured_on():
    from itrex_chat.quality.measuring import _check_text

    with pytest.raises(RunError, match="/dev/zero cannot be read: it is a device, a pipe or a socket, no file"):
        _check_text(Path("/dev/zero"))


def test_what_has_no_size_is_read_no_further_than_it_may_be(monkeypatch):
    with pytest.raises(RunError, match="too large"):
        files.bytes_of(Path("/proc/self/environ"), RunError, 1)
