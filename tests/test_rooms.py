"""Rooms: what may import what, and that the documents name what is there."""

import ast
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest

from itrex_chat.__main__ import VERBS, module_of
from itrex_chat.settings.variant import ENGINES

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "itrex_chat"
MODULES = {
    ".".join(file.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): file
    for file in sorted(PACKAGE.rglob("*.py"))
}

VERB_MODULES = {module_of(verb) for verb in VERBS}

# From the ground floor up: a room imports from rooms above its line in this table, and of these only from those it names.
# "" is itrex_chat/__init__.py, which all may import for __version__.
ROOMS: dict[str, tuple[str, ...]] = {
    "foundation": (),
    "": ("foundation",),
    "settings": ("foundation",),
    "architecture": ("foundation",),
    "sources": ("foundation", "settings"),
    "native": ("foundation",),
    "checkpoints": ("foundation", "architecture", "sources"),
    "quantization": ("foundation", "settings", "architecture", "native", "checkpoints"),
    "kernels": ("foundation", "native", "quantization"),
    "chat": ("foundation", "settings", "sources"),
    "decoder": ("architecture", "native", "kernels"),
    "calibration": ("foundation", "settings", "architecture", "checkpoints", "quantization", "decoder"),
    "artifacts": (
        *("foundation", "settings", "architecture", "sources", "checkpoints", "quantization", "chat", "calibration"),
    ),
    "generation": ("foundation", "settings", "chat", "decoder"),
    "jobs": ("foundation", "settings"),
    "engines": (
        *("foundation", "settings", "architecture", "sources", "checkpoints", "chat", "artifacts", "decoder"),
        *("generation", "jobs"),
    ),
    "engines.native": (
        *("foundation", "settings", "architecture", "native", "checkpoints", "quantization", "kernels", "chat"),
        *("artifacts", "decoder", "generation", "jobs", "engines"),
    ),
    "engines.itrex": (
        *("foundation", "settings", "architecture", "sources", "checkpoints", "quantization", "chat", "artifacts"),
        *("decoder", "generation", "jobs", "engines"),
    ),
    "conversation": ("foundation", "settings", "chat", "generation", "engines"),
    "quality": (
        *(
            "foundation",
            "settings",
            "architecture",
            "kernels",
            "decoder",
            "calibration",
            "artifacts",
            "jobs",
            "engines",
        ),
    ),
    "worker": ("foundation", "settings", "kernels", "chat", "generation", "jobs", "engines", "quality"),
    "runs": ("foundation", "settings", "jobs"),
    "disk": ("foundation", "settings", "sources", "artifacts", "engines", "quality", "runs"),
    "endpoints": ("foundation",),
    "ratings": ("foundation", "quality", "endpoints"),
    "sweeps": ("foundation", "settings", "artifacts", "jobs", "quality"),
    "comparison": ("foundation", "settings", "jobs", "engines", "quality", "runs", "ratings"),
    "report": ("foundation", "settings", "jobs", "engines", "quality", "ratings", "sweeps", "comparison"),
    "cluster": ("foundation", "settings", "artifacts", "jobs", "quality"),
    "server": ("foundation", "settings", "sources", "chat", "generation", "jobs", "engines", "runs", "ratings"),
    "neuralchat": ("foundation", "settings", "chat", "decoder", "generation", "engines"),
}
# Imports that the table forbids, each with its reason.
EXCEPTIONS = {
    # To score one layer at a time, a decoder takes single blocks out of an artifact. An engine's session cannot give them
    # (yet): this asks for a method of the session.
    ("itrex_chat.quality.scoring", "itrex_chat.engines.native.weights"),
    # `python -m itrex_chat.chat` is a verb's command, and the room of that name is older: its `__main__.py` calls the verb.
    ("itrex_chat.chat.__main__", "itrex_chat.talk"),
}
# Modules that name each other's types: (who names it for types alone, whose).
CIRCLES_OF_TYPES: set[tuple[str, str]] = set()
# Where engines may be told apart by name; in (module, what) a place elsewhere, with its reason.
TELL_ENGINES_APART = ("engines", "engines.native", "engines.itrex", "settings", "neuralchat")
COMPARES_ENGINES = {
    # A run's spec leaves out the default, so that runs of versions without engines keep their digests.
    ("itrex_chat.runs.asking", "tuple(engines) != (NATIVE,)")
}
ENGINES_NAME = re.compile(r"itrex(-(fp32|bf16|int4|int8)?)?")
FOREIGN = "itrex_chat.engines.itrex.worker."  # they run in ITREX's environment and import each other by bare names


def room_of(module: str) -> str:
    """The room (or verb) that a module lies in; the engines are rooms within a room."""
    parts = module.split(".")[1:]
    if parts[:1] == ["engines"] and len(parts) > 1 and parts[1] in ENGINES:
        return ".".join(parts[:2])
    return parts[0] if parts else ""


def imports(module: str, source: str) -> Iterator[tuple[str, bool]]:
    """The modules of this package that a module imports, in its functions too, and whether for types alone."""
    tree = ast.parse(source)
    for_types = {
        id(node)
        for block in ast.walk(tree)
        if isinstance(block, ast.If) and ast.unparse(block.test) in ("TYPE_CHECKING", "typing.TYPE_CHECKING")
        for statement in block.body
        for node in ast.walk(statement)
    }
    for node in ast.walk(tree):
        names: list[str] = []
        if isinstance(node, ast.ImportFrom):
            assert not node.level, f"{module} imports relatively"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        if module == "itrex_chat" and id(node) in for_types:
            continue  # the package names the types of what it gives out when it is asked for
        for name in names:
            if name.split(".")[0] == "itrex_chat":
                yield _module(name), id(node) in for_types


def _module(name: str) -> str:
    """The module that a dotted name means or lies in."""
    while name not in MODULES and "." in name:
        name = name.rpartition(".")[0]
    return name


def forbidden(module: str, source: str) -> list[str]:
    """What a module imports against the rules, in words."""
    room, found = room_of(module), []
    for target, _for_types in imports(module, source):
        other = room_of(target)
        if room == other or (module, target) in EXCEPTIONS or module == "itrex_chat.__main__":
            continue
        if room in VERB_MODULES:
            allowed = other in ROOMS and other not in ("engines.native", "engines.itrex")
        elif other == "":
            allowed = True
        else:
            allowed = other in ROOMS.get(room, ())
        if not allowed:
            found.append(f"{module} imports {target}")
    return found


def told_apart(module: str, source: str) -> list[str]:
    """Where a module compares the names of engines or writes one."""
    if room_of(module) in TELL_ENGINES_APART:
        return []
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, (ast.Compare, ast.MatchValue)):
            for part in ast.walk(node):
                named = isinstance(part, (ast.Name, ast.Attribute)) and ast.unparse(part).split(".")[-1] in (
                    "ITREX",
                    "NATIVE",
                )
                if (named or (isinstance(part, ast.Constant) and part.value in ENGINES)) and (
                    (module, ast.unparse(node)) not in COMPARES_ENGINES
                ):
                    found.append(f"{module}: {ast.unparse(node)}")
        elif isinstance(node, ast.Constant) and ENGINES_NAME.fullmatch(str(node.value)):
            found.append(f"{module}: {node.value!r}")
    return found


def circle(edges: Iterable[tuple[str, str]]) -> list[str]:
    """What imports itself through others; empty where nothing does."""
    targets: dict[str, set[str]] = {}
    for here, there in edges:
        targets.setdefault(here, set()).add(there)
    while leaves := [here for here, there in targets.items() if not there & targets.keys()]:
        for leaf in leaves:
            del targets[leaf]
    return sorted(targets)


def sources() -> dict[str, str]:
    return {name: file.read_text("utf-8") for name, file in MODULES.items() if not name.startswith(FOREIGN)}


def test_every_room_of_the_package_has_a_line_in_the_table():
    rooms = {room_of(module) for module in MODULES} - {*VERB_MODULES, "__main__"}
    assert rooms == ROOMS.keys()


def test_the_table_goes_from_the_ground_floor_up():
    rooms = list(ROOMS)
    assert [(room, other) for room in rooms for other in ROOMS[room] if rooms.index(other) >= rooms.index(room)] == []


def test_no_module_imports_what_its_room_may_not():
    assert [line for module, source in sources().items() for line in forbidden(module, source)] == []


def test_the_table_allows_nothing_that_no_module_needs():
    seen = {
        (room_of(module), room_of(target))
        for module, source in sources().items()
        for target, _ in imports(module, source)
    }
    assert [(room, other) for room, others in ROOMS.items() for other in others if (room, other) not in seen] == []


def test_every_exception_is_needed():
    found = {
        (module, target): for_types
        for module, source in sources().items()
        for target, for_types in imports(module, source)
    }
    assert found.keys() >= EXCEPTIONS
    assert all(found.get(pair) for pair in CIRCLES_OF_TYPES)


def test_modules_do_not_import_in_circles():
    edges = [(module, target) for module, source in sources().items() for target, _for_types in imports(module, source)]
    assert circle(edge for edge in edges if edge not in CIRCLES_OF_TYPES and edge[0] != edge[1]) == []


def test_no_module_asks_which_engine_it_has():
    assert [line for module, source in sources().items() for line in told_apart(module, source)] == []


@pytest.mark.parametrize(
    "module, source",
    [
        ("itrex_chat.foundation.files", "from itrex_chat.settings.recipe import Recipe"),
        ("itrex_chat.foundation.files", "def f():\n    import itrex_chat.settings.recipe"),
        ("itrex_chat.decoder.model", "if TYPE_CHECKING:\n    from itrex_chat.generation import sequence"),
        ("itrex_chat.jobs.event", "from itrex_chat import engines"),
        ("itrex_chat.runs.asking", "from itrex_chat.engines.itrex.engine import ENGINE"),
        ("itrex_chat.engines.session", "from itrex_chat.engines.native import weights"),
        ("itrex_chat.engines.native.engine", "import itrex_chat.engines.itrex.view as view"),
        ("itrex_chat.report.page", "from itrex_chat.compare import compare"),
        ("itrex_chat.ask", "from itrex_chat import measure"),
        ("itrex_chat.ask", "from itrex_chat.engines.native.weights import load_dense"),
        ("itrex_chat.attic.things", "from itrex_chat.foundation import files"),
    ],
)
def test_an_import_that_is_not_allowed_is_found(module, source):
    assert len(forbidden(module, source)) == 1


@pytest.mark.parametrize(
    "module, source",
    [
        ("itrex_chat.foundation.machine", "from itrex_chat import __version__"),
        ("itrex_chat.report.page", "from itrex_chat.report import charts\nimport torch\nfrom pathlib import Path"),
        ("itrex_chat.ask", "from itrex_chat.runs import asking"),
        ("itrex_chat.engines.native.engine", "from itrex_chat.engines.session import Session"),
    ],
)
def test_an_import_that_is_allowed_is_not_found(module, source):
    assert forbidden(module, source) == []


@pytest.mark.parametrize(
    "source",
    [
        "if variant.engine == ITREX: pass",
        "if variant.NATIVE != engine: pass",
        "if engine in ('native', 'other'): pass",
        "x = {'itrex': 1}",
        "match engine:\n    case 'native': pass",
        "name.startswith('itrex-')",
    ],
)
def test_a_comparison_of_engines_is_found(source):
    assert told_apart("itrex_chat.report.page", source)
    assert told_apart("itrex_chat.engines.native.engine", source) == []


def test_a_circle_is_found():
    assert circle([("a", "b"), ("b", "c"), ("c", "b"), ("c", "d")]) == ["a", "b", "c"]
    assert circle([("a", "b"), ("b", "c"), ("a", "c")]) == []


# The documents that say where things are


DOCUMENTS = ("docs/architecture.md", "CONTRIBUTING.md")
PATH = re.compile(
    r"(?<![\w./…])[\w.-]*/[\w./-]*\w/?|(?<![\w.-])[\w-]+(?:\.[\w-]+)*\.(?:py|c|h|md|toml|cfg|yaml|lock)\b"
)
NO_PATHS = {"cache/quality/"}


def paths(text: str) -> set[str]:
    """The paths between backquotes, and in the table of rooms."""
    spans = re.findall(r"`([^`]+)`", re.sub(r"^```.*?^```$", "", text, flags=re.MULTILINE | re.DOTALL))
    return {found for span in spans for found in PATH.findall(span) if "<" not in span and " " not in span}


def known(path: str) -> bool:
    """A path from the root of the checkout or of the package."""
    return any((folder / path).exists() for folder in (ROOT, PACKAGE))


@pytest.mark.parametrize("document", DOCUMENTS)
def test_every_path_in_a_document_exists(document):
    found = paths((ROOT / document).read_text("utf-8"))
    assert len(found) > 10
    assert sorted(path for path in found - NO_PATHS if not known(path)) == []


def test_every_room_has_a_line_in_the_architecture():
    text = (ROOT / "docs" / "architecture.md").read_text("utf-8")
    told = re.findall(r"^\| `([\w.]+)/", text, re.MULTILINE)
    assert told == [room for room in ROOMS if room and "." not in room]
