"""YAML that no recipe and no question set can mean: one sentence with the file's name, and nothing done."""

import time

import pytest

from itrex_chat.foundation.errors import ItrexChatError, QuestionSetError, RecipeError
from itrex_chat.settings import questions
from itrex_chat.settings import recipe as recipes

BOMB = "a: &a [x,x,x,x,x,x,x,x,x]\n" + "".join(
    f"{name}: &{name} [{','.join([f'*{before}'] * 9)}]\n" for before, name in zip("abcdefgh", "bcdefghi")
)
HOSTILE = [
    "2020-13-45",
    "2020-02-30 99:99:99",
    "2020-01-01",
    "0b_",
    "0x_",
    "!!int x",
    "!!float x",
    "!!int ''",
    "!!bool x",
    "!!timestamp x",
    "!!binary é",
    "!!set {a, b}",
    "!!omap [a: 1]",
    "!!python/name:os.system",
    "9" * 5000,
    "1" + ":00" * 3000,
    '"\\ud800"',
    "? [a]\n: b",
    "{{a: b}: c}",
    "*nothing",
    "&a [*a]",
    "[" * 5000,
    "{a: 1, a: 2}",
    "{<<: 5}",
    "\x00",
    ".inf",
    ".nan",
    "!!null x",
]


@pytest.mark.parametrize("value", HOSTILE)
def test_a_value_that_cannot_be_meant_is_a_sentence_in_recipe_question_set_and_option(value, tmp_path):
    file = tmp_path / "file.yaml"
    file.write_text(f"generation:\n  temperature: {value}\n", "utf-8")
    with pytest.raises(ItrexChatError, match=r"file.yaml|temperature"):
        recipes.load(str(file))
    if value not in (".inf", ".nan"):  # which a question may be
        file.write_text(f"questions:\n  - {{id: a, text: {value} }}\n", "utf-8")
        with pytest.raises(QuestionSetError, match=r"file.yaml"):
            questions.load(str(file))
    with pytest.raises(ItrexChatError):
        recipes.load("smollm2-135m", ["generation.temperature", value])


def test_an_alias_bomb_is_refused_at_once(tmp_path):
    file = tmp_path / "bomb.yaml"
    file.write_text(f"{BOMB}questions: *i\n", "utf-8")
    began = time.monotonic()
    for load, error in ((recipes.load, RecipeError), (questions.load, QuestionSetError)):
        with pytest.raises(error, match="bomb.yaml.*aliases"):
            load(str(file))
    assert time.monotonic() - began < 2


@pytest.mark.parametrize("text", ["name: a\nname: b\n", "generation:\n  seed: 1\n  seed: 2\n"])
def test_a_key_that_comes_twice_is_named(text, tmp_path):
    file = tmp_path / "twice.yaml"
    file.write_text(text, "utf-8")
    with pytest.raises(RecipeError, match=r"twice.yaml.*the key (name|seed) comes twice"):
        recipes.load(str(file))


def test_texts_on_the_command_line_that_only_look_like_yaml_stay_texts():
    recipe = recipes.load("smollm2-135m", ["chat.system", "2020-01-01"])
    assert recipe.chat.system == "2020-01-01"
    assert recipes.load("smollm2-135m", ["chat.system", "a: b: c"]).chat.system == "a: b: c"
    assert recipes.load("smollm2-135m", ["chat.system", "*stars*"]).chat.system == "*stars*"
