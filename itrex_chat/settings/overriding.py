"""Plain values over a recipe's defaults, key by key: yacs merges, and what it would say unclearly is said before."""

import reprlib
from typing import Any

import yaml
from yacs.config import CfgNode

from itrex_chat.foundation import yaml_file
from itrex_chat.foundation.choices import called, did_you_mean
from itrex_chat.foundation.errors import RecipeError
from itrex_chat.foundation.language import _


def merge(node: CfgNode, given: dict, where: str) -> None:
    """Merge plain values into `node`, with yacs checking keys and types."""
    _check(node, given, where)
    try:
        node.merge_from_other_cfg(CfgNode(_quoted(given)))
    except (KeyError, ValueError, AssertionError, RecursionError, MemoryError) as error:
        raise RecipeError(_("{where}: {reason}.", where=where, reason=_brief(error))) from None


def _check(node: CfgNode, given: dict, where: str, prefix: str = "") -> None:
    """Name the first key or type that yacs would refuse, and make 1 a float and 1e3 an int where such are meant."""
    for key, value in given.items():
        path = f"{prefix}{key}"
        if key not in node:
            raise RecipeError(
                _("{where}: there is no key {key}.{hint}", where=where, key=path, hint=did_you_mean(key, _paths(node)))
            )
        wanted = node[key]
        if isinstance(wanted, float) and type(value) is int:
            given[key] = value = float(value)
        if type(wanted) is int and type(value) is float and value.is_integer():
            given[key] = value = int(value)
        if isinstance(wanted, CfgNode) and isinstance(value, dict):
            _check(wanted, value, where, f"{path}.")
        elif isinstance(wanted, CfgNode) or (wanted is not None and type(value) is not type(wanted)):
            raise RecipeError(
                _(
                    "{where}: {key} must be {kind}, not {value}.",
                    where=where,
                    key=path,
                    kind=called(type(wanted)),
                    value=reprlib.repr(value),
                )
            )


def _paths(node: CfgNode) -> list[str]:
    """The keys of a section, and those in its sections: "chat", "chat.system", …"""
    inner = [f"{key}.{path}" for key, value in node.items() if isinstance(value, CfgNode) for path in _paths(value)]
    return [*node, *inner]


def _quoted(given: dict) -> dict:
    """Texts in quotes, which yacs takes off again: without them it would read the text "1.10" as a number."""
    return {
        key: _quoted(value) if isinstance(value, dict) else repr(value) if isinstance(value, str) else value
        for key, value in given.items()
    }


def at(node: CfgNode, key: str) -> Any:
    """What is at a key such as "chat.system" now; None where there is no such key."""
    value: Any = node
    for part in key.split("."):
        value = value.get(part) if isinstance(value, CfgNode) else None
    return value


def nested(key: str, value: Any) -> dict:
    for part in reversed(key.split(".")):
        value = {part: value}
    return value


def parsed(text: str) -> Any:
    """The value of a `--set` where no text is meant: YAML, or the text itself where that is none."""
    try:
        return yaml_file.parsed(text)
    except yaml.YAMLError:
        return text


def plain(node: CfgNode) -> dict:
    return {key: plain(value) if isinstance(value, CfgNode) else value for key, value in node.items()}


def _brief(error: Exception) -> str:
    """An error's own words on one line, without a closing full stop."""
    return " ".join(str(error.args[0] if error.args else error).split()).rstrip(".")[:300]
