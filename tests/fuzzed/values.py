"""Changing plain values, their JSON and bytes, as somebody would who wants to hurt, or a disk that lies."""

import copy
import json
from random import Random
from typing import Any

STEERING = "\x1b[31mred\x1b]0;title\x07 \u202egnp.exe \x9b2J"
TEXTS = (
    *("", "default", "yarn", "16", "0", "true", "null", "NaN", "1e999", "x" * 500, "模" * 90, "é́" * 9, "👩‍👧" * 3),
    *(
        STEERING,
        "a\nb",
        "a\r\nTraceback (most recent call last):",
        "a\0b",
        "\ud800",
        "\udcff",
        "\ufeff",
        "{0} {name} %s",
    ),
    *(
        "../../../etc/passwd",
        "/dev/zero",
        "a/b",
        "~nosuchuser",
        "model.safetensors",
        "$HOME",
        "`id`",
        "<script>1</script>",
    ),
    "=1+1|' *bold*",
)
NUMBERS = (
    *(0, -1, 1, 2, 3, 5, 7, 31, 64, 255, 4096, 1 << 24, 1 << 31, (1 << 32) - 1, 1 << 40, 1 << 63, 10**30, -(1 << 40)),
    *(0.0, -0.0, 0.5, -2.5, 1e-30, 5e-324, 1e30, 1e308, float("nan"), float("inf"), float("-inf")),
)
ODD = (*NUMBERS, *TEXTS, True, False, None, [], [4, 4], [None], [[]], {}, {"a": 1}, {"": None})
DEEP = 3000


def mutated(content: Any, random: Random, most: int = 3) -> Any:
    """A copy of plain values with one to `most` changes, at any depth."""
    holder = [copy.deepcopy(content)]
    for _time in range(random.randint(1, most)):
        inner, key = _place(holder, random)
        _change(inner, key, random)
    return holder[0]


def _place(holder: list, random: Random) -> tuple[Any, Any]:
    """Somewhere in the values: a container, and a key of it."""
    inner: Any = holder
    while True:
        key = random.choice(sorted(inner, key=repr)) if isinstance(inner, dict) else random.randrange(len(inner))
        if (
            not isinstance(inner[key], dict | list)
            or not inner[key]
            or (inner is not holder and random.random() < 0.15)
        ):
            return inner, key
        inner = inner[key]


def _change(inner: Any, key: Any, random: Random) -> None:
    old, how = inner[key], random.random()
    if how < 0.6:
        inner[key] = odd(random, old)
    elif how < 0.72:
        del inner[key]
        if not inner and isinstance(inner, list):
            inner.append(odd(random))
    elif how < 0.82 and isinstance(inner, dict):
        inner[random.choice(TEXTS)] = inner.pop(key) if random.random() < 0.5 else copy.deepcopy(old)
    elif how < 0.9:
        inner[key] = copy.deepcopy(random.choice(list(inner.values() if isinstance(inner, dict) else inner)))
    elif isinstance(inner, list) and how < 0.96:
        inner.extend(copy.deepcopy(old) for _time in range(random.choice((1, 2, 300))))
    else:
        inner[key] = random.choice(([old], {"content": old}, [old, old], str(old)[:500]))


def plain(content: bytes) -> Any:
    """The values in some JSON; of what is none any more the text."""
    try:
        return json.loads(content)
    except (ValueError, RecursionError):
        return content.decode("utf-8", "replace")[:1000]


def odd(random: Random, old: Any = None) -> Any:
    """Another value in the place of `old`, near it or not."""
    near = [old * 2, old + 1, old - 1, -old, old * 1000] if type(old) in (int, float) else []
    if isinstance(old, str):
        near = [old + random.choice(TEXTS), old[: len(old) // 2], old.upper(), old * 2]
    return copy.deepcopy(random.choice(near if near and random.random() < 0.3 else [*ODD, *near]))


def as_json(content: Any, random: Random, broken: float = 0.1) -> bytes:
    """The JSON of plain values, with a chance of `broken` as no writer would write it."""
    text = json.dumps(content, ensure_ascii=random.random() < 0.5, indent=random.choice((None, None, 2)))
    if random.random() >= broken:
        return text.encode("utf-8", "surrogatepass")
    how = random.randrange(8)
    if how == 0 and text.startswith("{") and len(text) > 2:  # a key twice
        return text.replace("{", "{" + text[1:].partition(",")[0].rstrip("}") + ", ", 1).encode("utf-8", "replace")
    if how == 1:
        return ("[" * DEEP + text + "]" * DEEP * random.randrange(2)).encode("utf-8", "replace")
    if how == 2:
        return ('{"a": ' * DEEP + text).encode("utf-8", "replace")
    if how == 3:
        return text.replace("1", "1" * 5000, 1).encode("utf-8", "replace")
    if how == 4:
        return text.encode("utf-16", "replace")
    if how == 5:
        return b"\xef\xbb\xbf" + text.encode("utf-8", "replace") + random.choice((b"", b"\0", b"{}", b" x"))
    return damaged(text.encode("utf-8", "replace"), random)


def damaged(content: bytes, random: Random) -> bytes:
    """Bytes with one to three damages: flipped, cut off, left out, repeated, overwritten."""
    for _time in range(random.randint(1, 3)):
        size = len(content)
        at = random.choice((random.randrange(size + 1), random.randrange(min(size, 400) + 1)))
        some = random.choice((1, 2, 4, 8, 64, max(1, size // 3)))
        how = random.randrange(7)
        if how == 0 and at < size:
            content = content[:at] + bytes([content[at] ^ 1 << random.randrange(8)]) + content[at + 1 :]
        elif how == 1:
            content = content[:at]
        elif how == 2:
            content = content[:at] + content[at + some :]
        elif how == 3:
            content = content[:at] + content[at : at + some] * 2 + content[at + some :]
        elif how == 4:
            content = content[:at] + random.randbytes(some) + content[at + some :]
        elif how == 5:
            number = random.choice((0, 1, (1 << 64) - 1, 1 << 63, 1 << 40, 1 << 31, size, size + 1))
            content = content[:at] + number.to_bytes(8, "little")[: random.choice((1, 4, 8))] + content[at + 8 :]
        else:
            content = content + random.choice((b"\0" * 9, content[:some], random.randbytes(some)))
    return content
