"""Which sources a library of kernels was built from. `setup.py` reads this too, before anything is installed."""

from hashlib import sha256
from pathlib import Path


def digest(folder: Path) -> str:
    """The SHA-256 of the C sources in a folder and their names; empty where there are none, as where a wheel was installed."""
    sources = sorted((*folder.glob("*.c"), *folder.glob("*.h")))
    parts = [f"{path.name}\n{sha256(path.read_bytes()).hexdigest()}\n" for path in sources]
    return sha256("".join(parts).encode()).hexdigest() if parts else ""
