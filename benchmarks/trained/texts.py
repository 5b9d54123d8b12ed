"""What the small model reads: the standard library of the Python that runs this, the language reference in it, and our own documents.

A fortieth of these files is held out, chosen by the digest of their names; README.zh-CN.md and the licence are another kind
of text that no training saw. Nothing is downloaded.
"""

import ast
import hashlib
import random
import sysconfig
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
LEFT_OUT = {"site-packages", "test", "tests", "idle_test", "__pycache__", "lib2to3", "ensurepip"}
OTHER_KIND = ("README.zh-CN.md", "LICENSE")
HELD_OUT_ONE_IN = 40
LONGEST_ANSWER = 1500  # letters of a docstring that is a chat's answer


@dataclass(frozen=True)
class Texts:
    """Documents by what they are for; `chats` are questions and answers."""

    training: list[str]
    chats: list[tuple[str, str]]
    held_out: list[str]
    other_kind: list[str]

    def digest(self) -> str:
        return hashlib.sha256("\0".join([*self.training, *map(str, self.chats), *self.held_out]).encode()).hexdigest()


def gather() -> Texts:
    """All texts, in the same order for the same Python and checkout."""
    training: list[str] = []
    chats: list[tuple[str, str]] = []
    held_out: list[str] = []
    for name, text in _documents():
        if int(hashlib.sha256(name.encode()).hexdigest(), 16) % HELD_OUT_ONE_IN == 0:
            held_out.append(text)
            continue
        training.append(text)
        if name.endswith(".py"):
            chats += _questions(name.removesuffix(".py").removesuffix("/__init__").replace("/", "."), text)
    random.Random(0).shuffle(training)
    return Texts(training, chats, held_out, [(REPOSITORY / name).read_text("utf-8") for name in OTHER_KIND])


def _documents() -> Iterator[tuple[str, str]]:
    """Names and texts."""
    from pydoc_data.topics import topics

    library = Path(sysconfig.get_paths()["stdlib"])
    for path in sorted(library.rglob("*.py")):
        name = path.relative_to(library)
        if LEFT_OUT.isdisjoint(name.parts) and name.parts[0] != "pydoc_data":
            try:
                yield name.as_posix(), path.read_text("utf-8")
            except UnicodeDecodeError:
                continue  # a few have older encodings
    yield from ((f"topic {name}", text) for name, text in sorted(topics.items()))
    ours = [*REPOSITORY.glob("*.md"), *REPOSITORY.glob("docs/*.md"), *REPOSITORY.glob("itrex_chat/**/*.py")]
    for path in sorted([*ours, *REPOSITORY.glob("itrex_chat/foundation/locale/*.yaml")]):
        if path.name not in OTHER_KIND:
            yield f"itrex_chat {path.relative_to(REPOSITORY).as_posix()}", path.read_text("utf-8")


def _questions(module: str, source: str) -> Iterator[tuple[str, str]]:
    """What each public function and class does, by its docstring."""
    try:
        tree = ast.parse(source)
    except SyntaxError:
        return
    for node in tree.body:
        if not isinstance(node, ast.FunctionDef | ast.ClassDef) or node.name.startswith("_"):
            continue
        if said := ast.get_docstring(node):
            yield f"What does {module}.{node.name} do?", said[:LONGEST_ANSWER]
