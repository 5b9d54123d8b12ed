"""Where recipes, question sets and the cache are, in a checkout and when installed."""

import os
from pathlib import Path

import platformdirs

PACKAGE = Path(__file__).resolve().parents[1]
CHECKOUT = PACKAGE.parent if (PACKAGE.parent / "setup.cfg").is_file() else None


def data_folder(name: str) -> Path:
    """The folder of shipped data files: beside the package in a checkout, inside it when installed."""
    return CHECKOUT / name if CHECKOUT else PACKAGE / name


def cache_home() -> Path:
    """`ITREX_CHAT_CACHE`, else `cache/` of the checkout, else the user's cache folder."""
    if chosen := os.environ.get("ITREX_CHAT_CACHE"):
        return expanded(chosen).absolute()
    return CHECKOUT / "cache" if CHECKOUT else Path(platformdirs.user_cache_dir("itrex_chat", appauthor=False))


def expanded(name: str) -> Path:
    """A path with the user's home for `~`; one of somebody who does not exist stays as it is."""
    return Path(os.path.expanduser(name))


def engines_home() -> Path:
    """Where engines keep environments of their own: `ITREX_CHAT_ENGINES`, else in the cache."""
    if chosen := os.environ.get("ITREX_CHAT_ENGINES"):
        return expanded(chosen).absolute()
    return cache_home() / "engines"
