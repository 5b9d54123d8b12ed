"""Text files are in UTF-8 whatever the locale is: whoever opens one says so."""

import ast
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
FILES = sorted(file for folder in ("itrex_chat", "benchmarks", "tests") for file in (ROOT / folder).rglob("*.py"))
MODES = ("r", "w", "a", "x", "r+", "w+", "a+")


def opens_text_as_the_locale_has_it(call: ast.Call) -> bool:
    name = call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")
    given = [argument.value for argument in call.args if isinstance(argument, ast.Constant)]
    if any(keyword.arg == "encoding" for keyword in call.keywords):
        return False
    if name in ("read_text", "write_text"):
        return len(call.args) == (name == "write_text")
    if isinstance(call.func, ast.Name):  # the built-in function
        return name == "open" and not any(isinstance(mode, str) and "b" in mode for mode in given[-1:])
    return name in ("open", "fdopen") and (not call.args or given[-1:] != [] and given[-1] in MODES)


def test_no_text_file_is_read_or_written_in_the_locales_encoding():
    found = [
        f"{file.relative_to(ROOT)}:{node.lineno}"
        for file in FILES
        for node in ast.walk(ast.parse(file.read_bytes()))
        if isinstance(node, ast.Call) and opens_text_as_the_locale_has_it(node)
    ]
    assert found == []
