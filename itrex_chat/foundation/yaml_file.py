"""Reading the YAML that users write: files, and the values of `--set`.

It is YAML of keys, texts, numbers, truth values and lists. Numbers are those of YAML 1.2: 1e-1 is one, 010 is ten, 1:30
and 2020-01-01 are texts. What a recipe cannot mean is refused where it is written: a key that comes twice, aliases (four
hundred bytes of them are a billion values), tags, values that no text can hold.
"""

import re
from collections.abc import Hashable
from pathlib import Path
from typing import Any

import yaml

from itrex_chat.foundation import files
from itrex_chat.foundation.harmless import encodable
from itrex_chat.foundation.language import _

LARGEST = 1 << 20  # bytes
PLAIN = (dict, list, str, int, float, bool, type(None))


def read_mapping(path: Path, error: type[Exception], texts: bool = False) -> dict:
    """The keys and values in a YAML file; with `texts` all values are texts, as they stand. Raises `error` naming the file."""
    try:
        content = parsed(files.text_of(path, error, LARGEST), texts)
    except UnicodeDecodeError:
        raise error(_("{text} is not a text in UTF-8; save it as one.", text=path)) from None
    except yaml.YAMLError as problem:
        reason = encodable(" ".join(str(problem).split()))[:300].rstrip(".")
        raise error(_("{file} is not valid YAML: {reason}.", file=path, reason=reason)) from None
    if not isinstance(content, dict):
        raise error(_("{file} must hold keys and values.", file=path))
    return content


def parsed(text: str, texts: bool = False) -> Any:
    """What a YAML text says, in plain values, or in texts alone. Raises YAMLError for whatever cannot be meant."""
    try:
        return yaml.load(text, _Texts if texts else _Reader)
    except yaml.YAMLError:
        raise
    except (ValueError, TypeError, LookupError, AttributeError, OverflowError, RecursionError) as problem:
        # of the parser's own constructors: a number without digits or with 5000, …
        raise yaml.YAMLError(str(problem) or type(problem).__name__) from None


class _Reader(yaml.SafeLoader):
    """PyYAML's safe loader for plain values alone."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            event = self.peek_event()
            raise _refused(_("aliases such as *{name} are not read", name=event.anchor), event.start_mark)
        return super().compose_node(parent, index)

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        value = super().construct_object(node, deep)
        if type(value) not in PLAIN and not isinstance(node, yaml.CollectionNode):
            raise _refused(_("{value} is not a text, a number, true or false", value=value), node.start_mark)
        if isinstance(value, int) and value.bit_length() > 64:
            raise _refused(_("a number with too many digits"), node.start_mark)
        if isinstance(value, str) and encodable(value) != value:
            raise _refused(_("half a character"), node.start_mark)
        return value

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen = set()
        for key, _value in node.value:
            name = self.construct_object(key, deep=True)
            if not isinstance(name, Hashable):
                raise _refused(_("a key must be a text"), key.start_mark)
            if name in seen:
                raise _refused(_("the key {key} comes twice", key=name), key.start_mark)
            seen.add(name)
        return super().construct_mapping(node, deep)


class _Texts(_Reader):
    """The same where nothing but texts is meant: "no" and 3.10 are what they say."""


def _refused(problem: str, mark: yaml.Mark) -> yaml.YAMLError:
    return yaml.constructor.ConstructorError(None, None, problem, mark)


def _no_kind_of_ours(reader: _Reader, node: yaml.Node) -> Any:
    raise _refused(_("{value} is not a text, a number, true or false", value=node.tag), node.start_mark)


def _decimal(reader: _Reader, node: Any) -> int:
    return int(reader.construct_scalar(node))


def _without(resolvers: dict[str, list], tags: set[str]) -> dict[str, list]:
    """What a scalar without quotes may be, by its first character, less some kinds."""
    return {first: [kind for kind in kinds if kind[0] not in tags] for first, kinds in resolvers.items()}


KIND = "tag:yaml.org,2002:"
_Texts.yaml_implicit_resolvers = {}
_Reader.yaml_implicit_resolvers = _without(
    yaml.SafeLoader.yaml_implicit_resolvers, {KIND + name for name in ("int", "float", "timestamp")}
)
_Reader.add_implicit_resolver(KIND + "int", re.compile(r"[-+]?[0-9]+$"), list("-+0123456789"))
_Reader.add_implicit_resolver(
    KIND + "float",
    re.compile(r"([-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN))$"),
    list("-+.0123456789"),
)
_Reader.add_constructor(KIND + "int", _decimal)
for _tag in ("set", "omap", "pairs", "binary", "timestamp"):
    _Reader.add_constructor(KIND + _tag, _no_kind_of_ours)
