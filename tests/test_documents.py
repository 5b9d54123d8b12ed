"""The documents: commands that the commands' own parsers take, examples that run, numbers that are the code's."""

import argparse
import ast
import contextlib
import importlib
import inspect
import io
import re
import runpy
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

import itrex_chat
from itrex_chat import __main__ as entry
from itrex_chat.comparison import gate
from itrex_chat.foundation import command_line
from itrex_chat.foundation.errors import ItrexChatError
from itrex_chat.neuralchat.chatbot import Chatbot
from itrex_chat.settings import generation
from itrex_chat.settings import recipe as recipes

ROOT = Path(__file__).resolve().parent.parent
DOCUMENTS = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").glob("*.md"))]
API = ROOT / "docs" / "api.md"
COMMAND = re.compile(rf"(?:python -m itrex_chat\.|itrex_chat\.|itrex-chat |… )({'|'.join(entry.VERBS)})\b(?!\.)(.*)")
FENCED = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
HEAVY = {
    *(
        "torch",
        "transformers",
        "tokenizers",
        "neural_compressor",
        "auto_round_kernel",
        "numpy",
        "einops",
        "safetensors",
    ),
    *("sentencepiece", "tiktoken", "gguf", "huggingface_hub", "modelscope", "modelscope_hub", "sacrebleu", "pydantic"),
    *(
        "jinja2",
        "markupsafe",
        "filelock",
        "psutil",
        "prompt_toolkit",
        "fastapi",
        "starlette",
        "uvicorn",
        "prometheus_client",
        "llguidance",
    ),
}
FOREIGN = {"--kl-divergence"}  # llama.cpp's


def blocks(text: str) -> list[str]:
    """The lines of code: in fences, but not of Python, and indented by four."""
    fenced = [block for language, block in FENCED.findall(text) if language != "python"]
    indented = re.findall(r"^    .*$", FENCED.sub("", text), re.MULTILINE)
    lines = "\n".join([*fenced, *indented]).replace("\\\n", " ")
    return [line.strip() for line in lines.splitlines()]


def spans(text: str) -> list[str]:
    """What stands between backquotes within a paragraph, in one line each."""
    paragraphs = re.split(r"\n\s*\n", FENCED.sub("", text))
    return [re.sub(r"\s+", " ", span) for paragraph in paragraphs for span in re.findall(r"`([^`]+)`", paragraph)]


def commands(text: str) -> list[list[str]]:
    """Every command of this program in a document: the verb and its arguments. A bare `itrex_chat.VERB` names it only."""
    found = [match for line in blocks(text) if (match := COMMAND.match(line))]
    found += [
        match
        for span in spans(text)
        if (match := COMMAND.fullmatch(span)) and (match[2] or span.startswith(("python", "itrex-chat")))
    ]
    return [[match[1], *shlex.split(match[2], comments=True)] for match in found]


@pytest.fixture
def parse(monkeypatch):
    """A function that gives a command to its verb's parser and returns what the verb would be run with."""

    def parse(verb: str, *arguments: str):
        given = []
        with monkeypatch.context() as here, contextlib.redirect_stderr(io.StringIO()) as complaint:
            here.setattr(command_line, "run", lambda command, parser, argv: given.append(parser.parse_args(argv)))
            try:
                importlib.import_module(f"itrex_chat.{entry.module_of(verb)}").main(list(arguments))
            except SystemExit:
                raise ValueError(complaint.getvalue()) from None
        return given[0]

    return parse


@pytest.fixture
def check(parse):
    """A function that parses every command of a document, with the values of `--set` and `--fail-if`, and counts them."""

    def check(text: str) -> int:
        for command in commands(text):
            arguments = parse(*command)
            if pairs := getattr(arguments, "settings", None):
                recipes.load(recipes.EMBEDDED, [part for pair in pairs for part in pair])
            for condition in getattr(arguments, "fail_if", None) or ():
                gate.parse(condition)
        return len(commands(text))

    return check


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_every_command_in_a_document_is_one_that_its_parser_takes(document, check):
    check(document.read_text("utf-8"))


@pytest.mark.parametrize("name", ["README.md", "README.zh-CN.md"])
def test_the_readmes_show_most_verbs(name):
    verbs = {verb for verb, *_arguments in commands((ROOT / name).read_text("utf-8"))}
    assert set(entry.VERBS) - verbs <= {"judge"}  # named there without its arguments


@pytest.mark.parametrize(
    "text",
    [
        "    python -m itrex_chat.ask --varaints int4",
        "    python -m itrex_chat.cache delete NAME        # a comment",
        "    itrex-chat measure --tokens many",
        "```\npython -m itrex_chat.quantize --model a --set quantization.group_sise 64\n```",
        "    python -m itrex_chat.compare --fail-if 'kld_meen>0.1'",
        "as `python -m itrex_chat.doctor --instal-all` says",
        "as `… sheet write FILE` says",
        "as `itrex_chat.online --modell gpt-4o` says",
    ],
)
def test_a_command_that_does_not_exist_is_noticed(text, check):
    with pytest.raises((ValueError, ItrexChatError)):
        check(text)


class Parsed(BaseException):
    """Ends a benchmark when its arguments are read."""


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_every_benchmark_in_a_document_is_one_that_its_parser_takes(document, monkeypatch):
    text, really = document.read_text("utf-8"), argparse.ArgumentParser.parse_args

    def parse(self, *arguments):
        really(self, *arguments)
        raise Parsed

    monkeypatch.setattr(argparse.ArgumentParser, "parse_args", parse)
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    for line in [*blocks(text), *spans(text)]:
        if line.startswith("python benchmarks/"):
            _python, file, *arguments = shlex.split(line, comments=True)
            monkeypatch.setattr(sys, "argv", [file, *arguments])
            with pytest.raises(Parsed):
                runpy.run_path(str(ROOT / file), run_name="__main__")


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_every_option_named_in_a_sentence_exists(document):
    """In the source of a verb or of a benchmark: most sentences do not say whose option it is."""
    files = [*(ROOT / "itrex_chat").rglob("*.py"), *(ROOT / "benchmarks").rglob("*.py")]
    known = set(re.findall(r'"(--[a-z-]+)"', "\n".join(file.read_text("utf-8") for file in files)))
    named = {span.split()[0] for span in spans(document.read_text("utf-8")) if re.match(r"--[a-z]", span)}
    assert named <= known | FOREIGN | {"--help"}


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_every_setting_named_in_a_sentence_can_be_set(document):
    for span in spans(document.read_text("utf-8")):
        if (match := re.fullmatch(r"--set (\S+) (\S+)", span)) and match[1] != "KEY":
            recipes.load("chatglm3-6b", [match[1], match[2]])


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_every_link_between_documents_leads_somewhere(document):
    targets = re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", document.read_text("utf-8"))
    assert [target for target in targets if not (document.parent / target).exists()] == []


@pytest.mark.parametrize("verb", entry.VERBS)
def test_help_imports_nothing_heavy(verb):
    run = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", f"itrex_chat.{verb}", "--help"],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    imported = {line.rpartition("|")[2].strip() for line in run.stderr.splitlines() if line.startswith("import time:")}
    assert run.returncode == 0 and "argparse" in imported
    assert sorted(imported & HEAVY) == []


# docs/api.md


def examples() -> list[tuple[str, str | None]]:
    """The Python blocks, each with what it prints where the document says so."""
    found = []
    for language, block in FENCED.findall(API.read_text("utf-8")):
        if language == "python":
            found.append((block, None))
        elif language == "text":
            found[-1] = (found[-1][0], block)
    return found


def test_the_examples_run_in_order_and_print_what_they_say(models):
    names: dict = {}
    for number, (source, prints) in enumerate(examples(), 1):
        source = source.replace('"chatglm3-6b"', repr(str(models("chatglm3"))))
        with contextlib.redirect_stdout(io.StringIO()) as out:
            exec(compile(source, f"docs/api.md, example {number}", "exec"), names)
        assert prints is None or out.getvalue() == prints
    assert len(names["chatbot"].facts()) > 4


def test_every_public_name_is_in_the_document():
    text = API.read_text("utf-8")
    assert [name for name in itrex_chat.__all__ if not re.search(rf"`{name}\b|^## {name}$", text, re.MULTILINE)] == []


def table(title: str) -> dict[str, str]:
    """The first two columns of the table below a title."""
    section = API.read_text("utf-8").partition(f"\n## {title}\n")[2].partition("\n## ")[0]
    return dict(re.findall(r"^\| `(\w+)` \| `(.*?)` \|", section, re.MULTILINE))


def defaults(callable_) -> dict[str, object]:
    return {
        name: parameter.default
        for name, parameter in inspect.signature(callable_).parameters.items()
        if name != "self" and parameter.kind is not parameter.VAR_KEYWORD
    }


@pytest.mark.parametrize(
    "title, described",
    [
        ("PipelineConfig", itrex_chat.PipelineConfig),
        ("RtnConfig", itrex_chat.RtnConfig),
        ("MixedPrecisionConfig", itrex_chat.MixedPrecisionConfig),
        ("GenerationConfig", generation.GenerationConfig),
    ],
)
def test_the_arguments_and_defaults_are_the_codes(title, described):
    assert {name: ast.literal_eval(value) for name, value in table(title).items()} == defaults(described)


def test_the_chatbots_methods_are_the_codes():
    written = dict(re.findall(r"^\| `(\w+)\((.*?)\)` \|", API.read_text("utf-8"), re.MULTILINE))
    assert {"predict", "predict_stream", "chat", "stream", "facts", "close"} <= set(written)
    for name, arguments in written.items():
        found = [
            key if default is inspect.Parameter.empty else f"{key}={default!r}".replace("'", '"')
            for key, default in defaults(getattr(Chatbot, name)).items()
        ]
        assert arguments == ", ".join(found), name


@pytest.mark.parametrize("name", ["README.md", "README.zh-CN.md"])
def test_the_readmes_lead_to_the_api_the_changelog_and_the_license(name):
    text = (ROOT / name).read_text("utf-8")
    assert all(f"]({target})" in text for target in ("docs/api.md", "CHANGELOG.md", "LICENSE"))


# CHANGELOG.md


def written_numbers() -> dict[str, int]:
    rows = re.findall(
        r"^\| `itrex_chat\.([\w.]+)` \| (\d+) \|", (ROOT / "CHANGELOG.md").read_text("utf-8"), re.MULTILINE
    )
    return {f"itrex_chat.{name}": int(number) for name, number in rows}


def numbers_in_the_code() -> dict[str, int]:
    """Each format's, schema's or numerics' number, under its module's name."""
    found = {}
    for file in sorted((ROOT / "itrex_chat").rglob("*.py")):
        module = ".".join(file.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
        for node in ast.parse(file.read_text("utf-8")).body:
            targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
            value = getattr(node, "value", None)
            if isinstance(value, ast.Constant) and type(value.value) is int:
                for target in targets:
                    if isinstance(target, ast.Name) and re.fullmatch(r"(\w+_)?VERSION|FORMAT", target.id):
                        found[f"{module}.{target.id}"] = value.value
    return found


def test_the_changelog_names_the_number_of_every_format_as_it_is():
    assert numbers_in_the_code() and written_numbers() == numbers_in_the_code()
