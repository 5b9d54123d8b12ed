"""Reading the YAML files that users write."""

from pathlib import Path

import yaml

from itrex_chat.foundation.language import _

LARGEST = 1 << 20  # bytes


def read_mapping(path: Path, error: type[Exception]) -> dict:
    """The keys and values in a YAML file. Raises `error` naming the file."""
    try:
        if path.stat().st_size > LARGEST:
            raise error(_("{file} is too large to be what its name says.", file=path))
        content = yaml.safe_load(path.read_text("utf-8"))
    except OSError as problem:
        raise error(_("{file} cannot be read: {reason}.", file=path, reason=problem.strerror)) from None
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as problem:
        reason = " ".join(str(problem).split())[:300]
        raise error(_("{file} is not valid YAML: {reason}.", file=path, reason=reason)) from None
    if not isinstance(content, dict):
        raise error(_("{file} must hold keys and values.", file=path))
    return content
