"""Where results are to be written is tried before the work for them begins."""

import errno
import os

import pytest
from executors import Watched
from test_compare import answer, record

from itrex_chat import attribute, compare, judge, measure, sheet, sweep
from itrex_chat.endpoints.endpoint import Endpoint
from itrex_chat.foundation import files
from itrex_chat.foundation.errors import EngineError, RunError
from itrex_chat.jobs.executor import LocalExecutor
from itrex_chat.quality import measuring
from itrex_chat.runs.record import RunRecord
from itrex_chat.settings import recipe as recipes


@pytest.fixture
def no_work(monkeypatch):
    """Whatever takes long is not begun."""

    def begun(*arguments, **options):
        raise AssertionError("it has begun")

    monkeypatch.setattr(LocalExecutor, "run", begun)
    monkeypatch.setattr("itrex_chat.comparison.compare_runs", begun)
    monkeypatch.setattr(Endpoint, "complete", begun)


@pytest.fixture
def run(tmp_path):
    made = record(tmp_path / "run", [answer("fp32", "a", "x", [1, 2]), answer("int4", "a", "y", [1, 3])])
    return made.folder


@pytest.mark.parametrize("verb", [sweep, attribute])
def test_a_folder_that_cannot_be_is_named_before_anything_is_measured(models, text, tmp_path, capsys, no_work, verb):
    (tmp_path / "file").touch()
    out = tmp_path / "file" / "out"
    assert verb.main(["--model", str(models("qwen2")), "--text", str(text), "--out", str(out)]) == 1
    assert f"itrex_chat: Writing to {out} failed: {out} would be inside of a file; " in capsys.readouterr().err


def test_a_folder_that_cannot_be_is_named_before_runs_are_compared(run, tmp_path, capsys, no_work):
    (tmp_path / "file").touch()
    assert compare.main([str(run), "--out", str(tmp_path / "file" / "out")]) == 1
    assert sheet.main(["make", str(tmp_path / "file" / "sheet.csv"), "--run", str(run)]) == 1
    assert capsys.readouterr().err.count(" failed: ") == 2


@pytest.fixture
def read_only(monkeypatch):
    """No file can be made any more."""

    def refused(dir):
        raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(dir))

    monkeypatch.setattr(files.tempfile, "TemporaryFile", refused)


def test_a_run_that_cannot_be_written_is_named_before_anything_is_measured(run, capsys, no_work, read_only):
    assert measure.main([str(run)]) == 1
    with pytest.raises(RunError, match="read-only"):
        RunRecord.go_on(run)
    assert capsys.readouterr().err == (
        f"itrex_chat: Writing to {run} failed: the disk is read-only; choose a folder that can be written "
        "(ITREX_CHAT_CACHE for the cache).\n"
    )


def test_no_model_is_loaded_where_its_predictions_cannot_be_kept(models, text, read_only):
    executor = Watched()
    with pytest.raises(RunError, match="quality/reference/.*read-only"):
        measuring.measure(recipes.load(str(models("qwen2"))), "fp32", [], [], [text], executor=executor)
    assert [task for task, _variant in executor.done()] == ["plan_scoring"]


def test_a_judge_is_not_asked_where_its_judgements_cannot_be_kept(run, capsys, read_only):
    assert judge.main([str(run), "--model", "x", "--endpoint", "http://127.0.0.1:1/v1"]) == 1
    assert "the disk is read-only" in capsys.readouterr().err


def test_what_was_made_for_results_goes_where_there_are_none_and_stays_where_there_are(tmp_path):
    with pytest.raises(EngineError), files.results_in(tmp_path / "a" / "b", RunError):
        raise EngineError("it did not work")
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(EngineError), files.results_in(tmp_path / "a" / "b", RunError):
        (tmp_path / "a" / "b" / "first").touch()
        raise EngineError("it did not work")
    assert (tmp_path / "a" / "b" / "first").exists()
    (tmp_path / "empty").mkdir()
    with files.results_in(tmp_path / "empty", RunError):
        pass
    assert (tmp_path / "empty").is_dir()
