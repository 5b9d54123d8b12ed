"""Rooms: what may import what."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from itrex_chat.__main__ import VERBS

PACKAGE = Path(__file__).resolve().parent.parent / "itrex_chat"
ROOMS = ("foundation", "settings", "jobs", "runs", "endpoints", "ratings", "comparison", "report", "sweeps")


def imported(file: Path) -> Iterator[str]:
    """The rooms and verbs that a file imports, in its functions too."""
    for node in ast.walk(ast.parse(file.read_text("utf-8"))):
        names = []
        if isinstance(node, ast.ImportFrom) and node.module:
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        yield from (name.split(".")[1] for name in names if name.startswith("itrex_chat."))


def below(room: str) -> set[str]:
    """All rooms that a room imports, directly or through others."""
    found: set[str] = set()
    waiting = [room]
    while waiting:
        here = waiting.pop()
        reached = {name for file in (PACKAGE / here).rglob("*.py") for name in imported(file)} - {here}
        waiting += reached - found
        found |= reached
    return found


def test_no_verb_imports_a_verb():
    assert {verb: found for verb in VERBS if (found := set(imported(PACKAGE / f"{verb}.py")) & set(VERBS))} == {}


@pytest.mark.parametrize("room", ROOMS)
def test_no_room_reaches_itself_or_a_verb(room):
    assert not below(room) & {room, *VERBS}
