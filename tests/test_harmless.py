"""Text of models and users, harmless in each medium."""

import json

import pytest

from itrex_chat.foundation.harmless import (
    as_json,
    encodable,
    for_markdown,
    for_spreadsheet,
    for_terminal,
    kept_by_spreadsheets,
)


def test_markdown_shows_text_as_it_is():
    assert for_markdown("a_b *c* <d> #1") == r"a\_b \*c\* &lt;d\> \#1"


def test_text_for_a_terminal_keeps_words_and_drops_what_steers_it():
    assert for_terminal("a\x1b[2Jb\u202ec\n你\t😀\x07\udcc4") == "a[2Jbc\n你\t😀?"


@pytest.mark.parametrize("text", ["=1+1", "+1", "-1", "@x", "\t=1", "＝1"])
def test_what_a_spreadsheet_would_run_stays_a_text(text):
    assert for_spreadsheet(text) == f"'{text}"


def test_numbers_and_words_stay_as_they_are_in_a_spreadsheet():
    assert [for_spreadsheet(cell) for cell in (-1, None, "1-2", "")] == [-1, None, "1-2", ""]


def test_what_a_spreadsheet_loses_is_left_out_before():
    assert kept_by_spreadsheets("a\r\n\u202eb\x00\tc\ud800\ue000") == "a\nb\tc\ue000"


def test_a_lone_surrogate_becomes_a_question_mark():
    assert encodable("a\ud83db 😀") == "a?b 😀"


def test_json_steers_no_terminal_and_says_what_it_said():
    value = {"a\x9b2J": ["\u202egpj.exe", "你\n", "\ud800", "\x7f"]}
    for indent in (None, 2):
        shown = as_json(value, indent)
        assert json.loads(shown) == value and "你" in shown
        assert for_terminal(shown) == shown
