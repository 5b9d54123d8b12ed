"""The commands: what they print, how they end, and that they can be installed anywhere."""

import os
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from itrex_chat import __main__ as entry
from itrex_chat import cache, quantize
from itrex_chat.artifacts import ArtifactStore, obtain
from itrex_chat.foundation import command_line, starting
from itrex_chat.foundation.errors import ItrexChatError
from itrex_chat.settings import recipe as recipes

ROOT = Path(__file__).resolve().parent.parent


def test_quantize_prints_the_table_the_line_and_the_place(models, capsys):
    assert quantize.main(["--model", str(models("chatglm3"))]) == 0
    out = capsys.readouterr().out
    assert "Mixed Precision Statistics" in out and "INT4 G32" in out
    assert "bits per weight" in out and "before" in out and "after" in out and "peak memory" in out
    assert f"Kept in {ArtifactStore().folders()[0]}" in out


@pytest.mark.parametrize("verb", entry.VERBS)
def test_a_python_without_the_packages_is_one_sentence(verb):
    bare = subprocess.run([sys.executable, "-S", "-m", f"itrex_chat.{verb}"], cwd=ROOT, capture_output=True, text=True)
    assert bare.returncode == 1 and bare.stdout == ""
    assert (
        len(bare.stderr.splitlines()) == 1
        and "does not have the package" in bare.stderr
        and "bin/activate" in bare.stderr
    )


def test_a_python_that_is_too_old_is_one_sentence(monkeypatch):
    monkeypatch.setattr(starting, "OLDEST", (99, 0))
    with pytest.raises(SystemExit, match="Python 3.11 or newer is needed"):
        starting.watch()


def test_smaller_groups_are_mentioned(models, capsys):
    quantize.main(["--model", str(models("chatglm3")), "--set", "quantization.group_size", "64"])
    assert "2 matrices have a smaller group than 64" in capsys.readouterr().out


def test_the_cache_lists_shows_verifies_and_removes(models, capsys):
    artifact = obtain(recipes.load(str(models("qwen2")))).artifact
    assert cache.main([]) == 0 and artifact.folder.name in capsys.readouterr().out
    assert cache.main(["show", "qwen2-tiny"]) == 0
    assert '"weight_dtype": "int4_fullrange"' in capsys.readouterr().out
    assert cache.main(["verify"]) == 0 and "good" in capsys.readouterr().out
    (artifact.folder / "config.json").write_text("{}", "utf-8")
    assert cache.main(["verify", artifact.folder.name]) == 1
    shown = capsys.readouterr()
    assert "damaged" in shown.out and "config.json" in shown.out
    assert cache.main([]) == 0 and "damaged" in capsys.readouterr().out
    assert cache.main(["remove", "qwen2-tiny", "--yes"]) == 0
    assert ArtifactStore().folders() == []


@pytest.mark.parametrize(
    "arguments, sentence",
    [
        (["show"], "Say which"),
        (["remove"], "Say which"),
        (["remove", "nothing"], "nothing by the name nothing"),
        (["verify", "nothing"], "no artifact nothing"),
    ],
)
def test_the_cache_needs_to_know_which(arguments, sentence, capsys):
    assert cache.main(arguments) == 1
    assert sentence in capsys.readouterr().err


def test_an_empty_cache_is_listed_and_good(capsys):
    assert cache.main([]) == 0 and cache.main(["verify"]) == 0


def raised(error):
    def work():
        raise error

    return work


def test_errors_are_one_sentence_and_exit_codes(capsys):
    assert command_line.framed(raised(ItrexChatError("What is wrong. What to do."))) == 1
    assert capsys.readouterr().err == "itrex_chat: What is wrong. What to do.\n"
    assert command_line.framed(raised(KeyboardInterrupt())) == 130
    assert "interrupted" in capsys.readouterr().err
    assert command_line.framed(raised(ZeroDivisionError())) == 70
    shown = capsys.readouterr().err
    log = next(word for word in shown.split() if word.endswith(".log"))
    assert len(shown.splitlines()) == 1 and "ZeroDivisionError" in shown
    assert "Traceback" in Path(log).read_text("utf-8")


OUTPUTS = [["itrex_chat.cache"], ["itrex_chat.ask", "--help"], ["itrex_chat", "--help"]]


@pytest.mark.parametrize("command", OUTPUTS)
def test_a_reader_that_went_away_is_no_error_message(command):
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "wb") as out:
        run = subprocess.run([sys.executable, "-m", *command], stdout=out, stderr=subprocess.PIPE)
    assert (run.returncode, run.stderr) == (1, b"")


@pytest.mark.parametrize("unbuffered", ["", "1"])
@pytest.mark.parametrize("command", OUTPUTS)
def test_standard_output_on_a_full_disk_is_a_sentence(command, unbuffered, monkeypatch):
    monkeypatch.setenv("PYTHONUNBUFFERED", unbuffered)
    with open("/dev/full", "wb") as out:
        run = subprocess.run([sys.executable, "-m", *command], stdout=out, stderr=subprocess.PIPE, encoding="utf-8")
    assert run.returncode == 1
    assert re.fullmatch("itrex_chat: Standard output .*No space left on device.\n", run.stderr)


@pytest.mark.parametrize("verb", entry.VERBS)
def test_every_verb_has_help_in_both_ways_of_calling_it(verb):
    for command in (["-m", f"itrex_chat.{verb}"], ["-m", "itrex_chat", verb]):
        run = subprocess.run([sys.executable, *command, "--help"], capture_output=True, text=True)
        assert run.returncode == 0 and "usage" in run.stdout, run.stderr


def test_an_unknown_verb_gets_a_hint(capsys):
    assert entry.main(["quantise"]) == 2
    assert "Did you mean quantize" in capsys.readouterr().err
    assert entry.main(["--help"]) == 0
    assert entry.main([]) == 2


def test_help_starts_without_torch():
    script = "import sys, itrex_chat.ask, itrex_chat.quantize, itrex_chat.compare, itrex_chat.cache; assert 'torch' not in sys.modules"
    assert subprocess.run([sys.executable, "-c", script]).returncode == 0


def test_a_wheel_has_the_recipes_the_questions_and_the_command(wheel, tmp_path):
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        archive.extractall(tmp_path / "installed")
    assert "itrex_chat/recipes/chatglm3-6b.yaml" in names and "itrex_chat/prompts/semantics-5.yaml" in names
    assert "itrex_chat/foundation/locale/zh.yaml" in names
    assert not any(name.startswith(("tests/", "cache/", "benchmarks/")) for name in names)
    script = (
        "from itrex_chat.settings import recipe, questions; from itrex_chat.foundation import places; import itrex_chat\n"
        f"assert itrex_chat.__file__.startswith({str(tmp_path)!r})\n"
        "assert recipe.load('chatglm3-6b') and questions.load('semantics-5')\n"
        "assert places.CHECKOUT is None and 'itrex_chat' in str(places.cache_home())"
    )
    environment = {"PYTHONPATH": str(tmp_path / "installed"), "PATH": "/usr/bin", "HOME": str(tmp_path)}
    run = subprocess.run([sys.executable, "-c", script], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
