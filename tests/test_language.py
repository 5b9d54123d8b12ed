"""Messages in Chinese: the catalogue is whole and true to the source, and the right language is spoken."""

import ast
import os
import re
import string
import subprocess
import sys
from collections import Counter
from importlib import import_module
from pathlib import Path

import pytest
import yaml

from itrex_chat import __main__ as entry
from itrex_chat.foundation.language import _, catalogue, user_language

ROOT = Path(__file__).resolve().parent.parent
CATALOGUE = ROOT / "itrex_chat" / "foundation" / "locale" / "zh.yaml"
CHINESE = re.compile("[\u4e00-\u9fff]")
VARIABLES = ("ITREX_CHAT_LANG", "LC_ALL", "LC_MESSAGES", "LANG")


def calls() -> list[tuple[str, ast.Call]]:
    """Every call of `_` in the source with its file and line."""
    return [
        (f"{file.relative_to(ROOT)}:{node.lineno}", node)
        for file in sorted((ROOT / "itrex_chat").rglob("*.py"))
        for node in ast.walk(ast.parse(file.read_text("utf-8")))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "_"
    ]


def constant(call: ast.Call) -> str | None:
    """The text of a call, if it is a constant."""
    first = call.args[0] if call.args else None
    return first.value if isinstance(first, ast.Constant) and isinstance(first.value, str) else None


def texts() -> set[str]:
    return {text for _place, call in calls() if (text := constant(call)) is not None}


def fields(text: str) -> Counter:
    """The fields of a text with their conversions and format specifications."""
    return Counter(
        (name, conversion, spec)
        for _literal, name, spec, conversion in string.Formatter().parse(text)
        if name is not None
    )


def test_every_text_is_a_constant():
    assert [place for place, call in calls() if constant(call) is None] == []


def test_every_text_has_a_translation():
    assert texts() and sorted(texts() - catalogue("zh").keys()) == []


def test_no_translation_is_left_of_a_text_that_is_gone():
    assert sorted(catalogue("zh").keys() - texts()) == []


def test_no_text_is_translated_twice():
    entries = yaml.compose(CATALOGUE.read_text("utf-8"), yaml.SafeLoader).value
    counts = Counter(key.value for key, _translation in entries)
    assert [text for text, count in counts.items() if count > 1] == []


def test_each_translation_has_the_fields_of_its_text():
    assert {
        text: translation for text, translation in catalogue("zh").items() if fields(text) != fields(translation)
    } == {}


def test_each_call_gives_the_fields_of_its_text():
    wrong = []
    for place, call in calls():
        given = {keyword.arg for keyword in call.keywords}  # None stands for **fields
        wanted = {name for name, _conversion, _spec in fields(constant(call) or "")}
        if not (given - {None} <= wanted if None in given else given == wanted):
            wrong.append(place)
    assert wrong == []


@pytest.mark.parametrize(
    "environ, language",
    [
        ({}, "en"),
        ({"LANG": "zh_CN.UTF-8"}, "zh"),
        ({"LANG": "zh-TW"}, "zh"),
        ({"LANG": "zh"}, "zh"),
        ({"LANG": "C"}, "en"),
        ({"LANG": "en_US.UTF-8"}, "en"),
        ({"LANG": "de_DE.UTF-8"}, "en"),
        ({"LANG": ""}, "en"),
        ({"LC_MESSAGES": "zh_CN.UTF-8", "LANG": "en_US.UTF-8"}, "zh"),
        ({"LC_MESSAGES": "en_US.UTF-8", "LANG": "zh_CN.UTF-8"}, "en"),
        ({"LC_ALL": "zh_CN.UTF-8", "LC_MESSAGES": "C", "LANG": "C"}, "zh"),
        ({"LC_ALL": "C", "LC_MESSAGES": "zh_CN.UTF-8", "LANG": "zh_CN.UTF-8"}, "en"),
        ({"ITREX_CHAT_LANG": "zh", "LC_ALL": "en_US", "LC_MESSAGES": "en_US", "LANG": "en_US"}, "zh"),
        ({"ITREX_CHAT_LANG": "en", "LC_ALL": "zh_CN", "LC_MESSAGES": "zh_CN", "LANG": "zh_CN"}, "en"),
        ({"ITREX_CHAT_LANG": "", "LC_ALL": "", "LC_MESSAGES": "", "LANG": "zh_CN.UTF-8"}, "zh"),
    ],
)
def test_the_first_variable_that_is_set_chooses_the_language(environ, language):
    assert user_language(environ) == language


def test_the_variable_of_this_program_chooses_the_language_of_a_text(monkeypatch):
    monkeypatch.setenv("ITREX_CHAT_LANG", "zh")
    assert CHINESE.search(_("peak memory"))
    monkeypatch.setenv("ITREX_CHAT_LANG", "en")
    assert _("peak memory") == "peak memory"


def test_a_text_without_a_translation_is_shown_in_english(monkeypatch):
    monkeypatch.setenv("ITREX_CHAT_LANG", "zh")
    assert (
        _("Nobody translated {what} in {seconds:.1f} s.", what="this", seconds=2) == "Nobody translated this in 2.0 s."
    )


def test_an_error_of_the_command_line_is_in_chinese_where_the_locale_is():
    environ = {name: value for name, value in os.environ.items() if name not in VARIABLES} | {"LANG": "zh_CN.UTF-8"}
    run = subprocess.run(
        [sys.executable, "-m", "itrex_chat.quantize", "--model", "nowhere"],
        cwd=ROOT,
        env=environ,
        capture_output=True,
        encoding="utf-8",
    )
    assert run.returncode == 1 and run.stdout == ""
    assert CHINESE.search(run.stderr) and "nowhere" in run.stderr and "Traceback" not in run.stderr


@pytest.mark.parametrize("verb", entry.VERBS)
def test_the_help_is_in_chinese(verb, monkeypatch, capsys):
    monkeypatch.setenv("ITREX_CHAT_LANG", "zh")
    with pytest.raises(SystemExit) as ending:
        import_module(f"itrex_chat.{entry.module_of(verb)}").main(["--help"])
    shown = capsys.readouterr()
    assert ending.value.code == 0 and shown.err == "" and CHINESE.search(shown.out)


def test_the_list_of_commands_is_in_chinese(monkeypatch, capsys):
    monkeypatch.setenv("ITREX_CHAT_LANG", "zh")
    assert entry.main(["--help"]) == 0 and CHINESE.search(capsys.readouterr().out)
    assert entry.main(["quantise"]) == 2
    shown = capsys.readouterr().err
    assert CHINESE.search(shown) and "quantise" in shown and "quantize" in shown
