"""Builds of the native kernels for tests: fuzz_native.c and a library with sanitizers (`make fuzz`), one with emulated tiles.

    python tests/fuzzing.py [CASES [FIRST]]    cases of fuzz_native.c; those of files are in fuzz_files.py

In all, AMX tiles are emulated where the processor has none. Objects are kept
in build/fuzz by the digest of what they are made of, so that only what changed
is compiled again.
"""

import hashlib
import importlib.machinery
import os
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

TOP = Path(__file__).resolve().parents[1]
SHARED = ("-fPIC", "-fvisibility=hidden", "-pthread")
SANITIZE = (*SHARED, "-fsanitize=address,undefined", "-fno-sanitize-recover=all", "-g", "-O1")
EMULATE = "-DEMULATE_TILES"
NAME = f"_kernels{importlib.machinery.EXTENSION_SUFFIXES[0]}"
# The check for leaks needs ptrace, which containers often forbid; where it is allowed, ASAN_OPTIONS=detect_leaks=1 is clean.
ENVIRONMENT = {"ASAN_OPTIONS": os.environ.get("ASAN_OPTIONS", "detect_leaks=0"), "UBSAN_OPTIONS": "print_stacktrace=1"}


def compiler() -> str:
    return os.environ.get("CC", "gcc")


def missing() -> str | None:
    """Why the driver cannot be built here, or None."""
    if shutil.which(compiler()) is None:
        return f"there is no C compiler ({compiler()})"
    folder = TOP / "build" / "fuzz"
    folder.mkdir(parents=True, exist_ok=True)
    source, program = folder / f"trial-{os.getpid()}.c", folder / f"trial-{os.getpid()}"
    source.write_text("int main(void) { return 0; }\n", "utf-8")
    try:
        built = subprocess.run([compiler(), *SANITIZE, str(source), "-o", str(program)], capture_output=True, text=True)
        ran = built.returncode == 0 and subprocess.run([program], env=os.environ | ENVIRONMENT, capture_output=True)
        return None if ran and ran.returncode == 0 else f"{compiler()} has no sanitizers"
    finally:
        source.unlink()
        program.unlink(missing_ok=True)


def build() -> Path:
    """The driver, compiled from the kernels' sources as they are now. Raises CalledProcessError."""
    objects = _compiled([*_kernels(), TOP / "tests/fuzz_native.c"], _sanitized())
    return _made(_named("fuzz_native", objects), [*SANITIZE, *map(str, objects), "-lm"])


def library() -> Path:
    """The kernels with emulated tiles, in a folder of their own. Raises CalledProcessError."""
    objects = _compiled(_kernels(), (*SHARED, "-O2", EMULATE))
    return _made(_named("emulated", objects) / NAME, ["-shared", *map(str, objects), "-lm"])


def sanitized_library() -> Path:
    """The kernels with sanitizers, for a process that `preloaded` was loaded into first. Raises CalledProcessError."""
    objects = _compiled(_kernels(), _sanitized())
    return _made(_named("sanitized", objects) / NAME, ["-shared", *SANITIZE, *map(str, objects), "-lm"])


def preloaded() -> list[str]:
    """The libraries for LD_PRELOAD: the sanitizers', and the one whose functions they stand before; [] where there are none."""
    asked = [[compiler(), f"-print-file-name={name}"] for name in ("libasan.so", "libstdc++.so")]
    found = [subprocess.run(command, capture_output=True, text=True).stdout.strip() for command in asked]
    return found if all(os.path.isabs(path) for path in found) else []


def has_tiles() -> bool:
    """Whether the processor has AMX."""
    try:
        return "amx_bf16" in Path("/proc/cpuinfo").read_text("utf-8").split()
    except OSError:
        return False


def run(cases: int, first: int = 0) -> subprocess.CompletedProcess:
    return subprocess.run(
        [build(), str(cases), str(first)], env=os.environ | ENVIRONMENT, capture_output=True, text=True
    )


def _sanitized() -> tuple[str, ...]:
    return SANITIZE if has_tiles() else (*SANITIZE, EMULATE)


def _kernels() -> list[Path]:
    return sorted((TOP / "itrex_chat/native").glob("*.c"))


def _compiled(sources: list[Path], flags: tuple[str, ...]) -> list[Path]:
    """The objects of the sources, made side by side."""
    headers = [*sorted((TOP / "itrex_chat/native").glob("*.h")), TOP / "tests/fuzz_matrices.h"]
    common = b"".join(path.read_bytes() for path in headers)
    common += " ".join((compiler(), *flags)).encode()

    def compiled(source: Path) -> Path:
        name = f"{source.stem}-{_digest(source.read_bytes() + common)}.o"
        return _made(TOP / "build" / "fuzz" / name, ["-std=gnu11", *flags, "-c", str(source)])

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        return list(pool.map(compiled, sources))


def _named(stem: str, objects: list[Path]) -> Path:
    return objects[0].with_name(f"{stem}-{_digest(''.join(map(str, objects)).encode())}")


def _made(product: Path, arguments: list[str]) -> Path:
    """The product of a compilation, made whole or not at all."""
    if not product.exists():
        product.parent.mkdir(parents=True, exist_ok=True)
        new = product.with_name(f"{os.getpid()}-{product.name}")
        subprocess.run([compiler(), *arguments, "-o", str(new)], check=True)
        new.replace(product)
    return product


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:16]


if __name__ == "__main__":
    if reason := missing():
        sys.exit(f"The fuzz driver cannot be built: {reason}.")
    done = run(*map(int, sys.argv[1:] or [10000]))
    print(done.stdout, done.stderr, sep="", end="")
    sys.exit(done.returncode)
