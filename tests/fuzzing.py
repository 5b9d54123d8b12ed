"""Builds of the native kernels for tests: fuzz_native.c with sanitizers (`make fuzz`), and a library with emulated tiles.

    python tests/fuzzing.py [CASES [FIRST]]

In both, AMX tiles are emulated where the processor has none. Objects are kept
in build/fuzz by the digest of what they are made of, so that only what changed
is compiled again.
"""

import hashlib
import os
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

TOP = Path(__file__).resolve().parents[1]
SANITIZE = ("-fsanitize=address,undefined", "-fno-sanitize-recover=all", "-g", "-O1", "-pthread")
LIBRARY = ("-O2", "-fPIC", "-pthread", "-fvisibility=hidden", "-DEMULATE_TILES")
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
    source.write_text("int main(void) { return 0; }
", "utf-8")
    try:
        built = subprocess.run([compiler(), *SANITIZE, str(source), "-o", str(program)], capture_output=True, text=True)
        ran = built.returncode == 0 and subprocess.run([program], env=os.environ | ENVIRONMENT, capture_output=True)
        return None if ran and ran.returncode == 0 else f"{compiler()} has no sanitizers"
    finally:
        source.unlink()
        program.unlink(missing_ok=True)


def build() -> Path:
    """The driver, compiled from the kernels' sources as they are now. Raises CalledProcessError."""
    flags = SANITIZE if has_tiles() else (*SANITIZE, "-DEMULATE_TILES")
    objects = _compiled([*_kernels(), TOP / "tests/fuzz_native.c"], flags)
    return _made(_named("fuzz_native", objects), [*flags, *map(str, objects), "-lm"])


def library(name: str) -> Path:
    """The kernels with emulated tiles, in a folder of their own under that name. Raises CalledProcessError."""
    objects = _compiled(_kernels(), LIBRARY)
    folder = _named("emulated", objects)
    return _made(folder / name, ["-shared", *map(str, objects), "-lm"])


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
