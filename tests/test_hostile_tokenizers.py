"""Templates and tokenizers that somebody made to hurt: they take no more time, memory and text than they may, and are named."""

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
import tiny_models

from itrex_chat import sources
from itrex_chat.chat import confined, load_tokenizer
from itrex_chat.chat.messages import Message
from itrex_chat.foundation.errors import SourceError, TokenizerEnded, TokenizerError

QUESTION = [Message("user", "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaab")]
TIME, MEMORY, TOO_MUCH = "seconds of processor time", "of memory", "makes far more"


@pytest.fixture(autouse=True)
def bounds(monkeypatch):
    """So that a test takes a second."""
    monkeypatch.setattr(confined, "SECONDS", 2)
    monkeypatch.setattr(confined, "MEMORY", 400 << 20)


@pytest.fixture
def tokenizer(tmp_path):
    tiny_models.fast_tokenizer(tmp_path)
    return load_tokenizer(tmp_path, "llama")


def names_the_model(error, folder: Path) -> bool:
    return re.match(f"The tokenizer or chat template of {re.escape(str(folder))} cannot be used: ", str(error.value))


TEMPLATES = {
    "a wide number": ("{{ '%1000000000d' % 1 }}", MEMORY),
    "a text a billion times": ("{{ 'a' * 1000000000 }}", MEMORY),
    "a text that doubles": (
        "{% set n = namespace(x='ab') %}{% for i in range(40) %}{% set n.x = n.x ~ n.x %}{% endfor %}{{ n.x }}",
        MEMORY,
    ),
    "a filter that pads": ("{{ 'a' | center(900000000) }}", MEMORY),
    "a list that doubles": (
        "{% set n = namespace(x=[1]) %}{% for i in range(40) %}{% set n.x = n.x + n.x %}{% endfor %}{{ n.x | length }}",
        MEMORY,
    ),
    "loops in loops": ("{% for a in range(9999) %}" * 4 + "{% endfor %}" * 4, TIME),
    "macros that call themselves twice": (
        "{% macro f(n) %}{% if n %}{{ f(n - 1) }}{{ f(n - 1) }}{% endif %}{% endmacro %}{{ f(60) }}",
        TIME,
    ),
    "a power of a power": ("{{ (9 ** (9 ** 9)) % 7 }}", TIME),
    "more text than any": ("{{ 'a b ' * 150000 }}", TOO_MUCH),
}


@pytest.mark.parametrize("template, bound", TEMPLATES.values(), ids=TEMPLATES)
def test_a_template_has_bounds(template, bound, tmp_path):
    tiny_models.fast_tokenizer(tmp_path, template)
    tokenizer = load_tokenizer(tmp_path, "llama")
    with pytest.raises(TokenizerError, match=bound) as error:
        tokenizer.prompt(QUESTION)
    assert names_the_model(error, tmp_path)


def test_a_template_that_misbehaves_for_one_conversation_answers_the_next(tmp_path):
    tiny_models.fast_tokenizer(
        tmp_path, "{% if messages[0].content == 'x' %}{{ 'a' * 1000000000 }}{% endif %}{{ messages[0].content }}"
    )
    tokenizer = load_tokenizer(tmp_path, "llama")
    before = tokenizer.prompt(QUESTION)
    with pytest.raises(TokenizerError, match=MEMORY):
        tokenizer.prompt([Message("user", "x")])
    assert tokenizer.prompt(QUESTION) == before


def test_a_template_that_calls_itself_for_ever_is_refused(tmp_path):
    tiny_models.fast_tokenizer(tmp_path, "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}")
    with pytest.raises(TokenizerError, match="chat template"):
        load_tokenizer(tmp_path, "llama").prompt(QUESTION)


GROWING = {"type": "Replace", "pattern": {"String": "a"}, "content": "a" * 30}
NEVER = {"Regex": "^(a|a|a)*$"}


def changed(folder: Path, **parts) -> Path:
    tiny_models.fast_tokenizer(folder)
    file = folder / "tokenizer.json"
    file.write_text(json.dumps(json.loads(file.read_text("utf-8")) | parts), "utf-8")
    return folder


TOKENIZERS = {
    "a normalizer that grows text": ({"normalizer": {"type": "Sequence", "normalizers": [GROWING] * 7}}, MEMORY),
    "a normalizer that grows it less": (
        {"normalizer": {"type": "Sequence", "normalizers": [GROWING | {"content": "a " * 60}] * 2}},
        TOO_MUCH,
    ),
    "a pattern that is given up": ({"normalizer": {"type": "Replace", "pattern": NEVER, "content": "b"}}, "Onig"),
    "a pattern that is almost given up": (
        {
            "normalizer": {"type": "Replace", "pattern": {"Regex": "^a+b"}, "content": f"{'a' * 12} " * 5000},
            "pre_tokenizer": {
                "type": "Split",
                "pattern": {"Regex": r"(?:a|a|a)*\d"},
                "behavior": "Isolated",
                "invert": False,
            },
        },
        TIME,
    ),
    "a damaged table": ({"normalizer": {"type": "Precompiled", "precompiled_charsmap": "AAAAAAAA"}}, None),
}


@pytest.mark.parametrize("parts, bound", TOKENIZERS.values(), ids=TOKENIZERS)
def test_a_tokenizer_has_bounds(parts, bound, tmp_path):
    with pytest.raises(TokenizerError, match=bound) as error:
        load_tokenizer(changed(tmp_path, **parts), "llama").encode(QUESTION[0].content)
    assert names_the_model(error, tmp_path)


@pytest.mark.parametrize("times, bound", [(3, TOO_MUCH), (8, MEMORY)])
def test_a_tokenizer_that_writes_books_for_a_token_is_refused(times, bound, tmp_path):
    decoders = {"type": "Sequence", "decoders": [{"type": "Fuse"}, *[GROWING] * times]}
    tokenizer = load_tokenizer(changed(tmp_path, decoder=decoders), "llama")
    ids = tokenizer.encode("aaaa")
    with pytest.raises(TokenizerError, match=bound) as error:
        tokenizer.decode(ids)
    assert names_the_model(error, tmp_path)


def test_a_tokenizer_that_crashes_is_named_and_serves_again(tokenizer, tmp_path):
    assert tokenizer._process is not None
    os.kill(tokenizer._process.pid, signal.SIGSEGV)
    with pytest.raises(TokenizerError, match="crashed") as error:
        tokenizer.encode("x")
    assert names_the_model(error, tmp_path)
    assert tokenizer.decode(tokenizer.encode("x")) == "x"


def test_what_is_asked_of_a_process_that_is_killed_is_asked_of_another_one(tokenizer, tmp_path, monkeypatch):
    ids = tokenizer.encode("x")
    assert tokenizer._process is not None
    before = tokenizer._process.pid
    os.kill(before, signal.SIGKILL)
    assert tokenizer.encode("x") == ids and tokenizer._process.pid != before
    started = tokenizer._started

    def killed():
        started()
        tokenizer._process.kill()

    monkeypatch.setattr(tokenizer, "_started", killed)
    tokenizer._process.kill()
    with pytest.raises(TokenizerEnded, match=f"{tmp_path} was killed"):
        tokenizer.encode("x")


def test_the_process_of_a_tokenizer_ends_with_it(tmp_path):
    tiny_models.fast_tokenizer(tmp_path)
    tokenizer = load_tokenizer(tmp_path, "llama")
    process = tokenizer._process
    assert process is not None and process.poll() is None and tokenizer.peak_memory() > 10 << 20
    del tokenizer
    assert process.poll() is not None


def test_the_process_of_a_tokenizer_ends_with_the_process_that_uses_it(tmp_path):
    tiny_models.fast_tokenizer(tmp_path)
    program = (
        "import sys, time\nfrom pathlib import Path\nfrom itrex_chat.chat import load_tokenizer\n"
        "tokenizer = load_tokenizer(Path(sys.argv[1]), 'llama')\nprint(tokenizer._process.pid, flush=True)\ntime.sleep(99)"
    )
    with subprocess.Popen([sys.executable, "-c", program, str(tmp_path)], stdout=subprocess.PIPE, text=True) as user:
        assert user.stdout is not None
        process = psutil.Process(int(user.stdout.readline()))
        user.kill()
    with contextlib.suppress(psutil.NoSuchProcess):
        while process.status() != psutil.STATUS_ZOMBIE:  # where nobody waits for it
            time.sleep(0.05)


@pytest.mark.parametrize(
    "family, name", [("chatglm3", "tokenizer.model"), ("llama", "tokenizer.json"), ("qwen", "qwen.tiktoken")]
)
def test_a_pipe_in_a_models_folder_is_not_waited_for(family, name, tmp_path):
    os.mkfifo(tmp_path / name)
    with pytest.raises(TokenizerError):
        load_tokenizer(tmp_path, family)


def test_a_pipe_is_no_model(tmp_path):
    os.mkfifo(tmp_path / "m.gguf")
    with pytest.raises(SourceError, match="not a GGUF file"):
        sources.local(tmp_path / "m.gguf")


def test_an_interrupt_leaves_no_reply_for_the_next_request(tokenizer, monkeypatch):
    with monkeypatch.context() as here:
        here.setattr(confined.json, "loads", interrupted)
        with pytest.raises(KeyboardInterrupt):
            tokenizer.encode("first")
    assert tokenizer.decode(tokenizer.encode("second")) == "second"


def interrupted(_content):
    raise KeyboardInterrupt
