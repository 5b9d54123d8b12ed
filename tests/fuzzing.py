"""Build and run fuzz_native.c with AddressSanitizer and UndefinedBehaviorSanitizer: `make fuzz`.

    python tests/fuzzing.py [CASES [FIRST]]

Objects are kept in build/fuzz by the digest of what they are made of, so that
only what changed is compiled again.
"""
import hashlib
import os
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

TOP = Path(__file__).resolve().parents[1]
SANITIZE = ("-fsanitize=address,undefined", "-fno-sanitize-recover=all", "-g", "-O1", "-fopenmp")
# The check for leaks needs ptrace, which containers often forbid; where it is allowed, ASAN_OPTIONS=detect_leaks=1 is clean.
ENVIRONMENT = {"ASAN_OPTIONS": os.environ.get("ASAN_OPTIONS", "detect_leaks=0"), "UBSAN_OPTIONS": "print_stacktrace=1", "OMP_WAIT_POLICY": "passive"}


def compiler() -> str:
    return os.environ.get("CC", "gcc")


def missing() -> str | None:
    """Why the driver cannot be built here, or None."""
    if shutil.which(compiler()) is None:
        return f"there is no C compiler ({compiler()})"
    folder = TOP / "build" / "fuzz"
    folder.mkdir(parents=True, exist_ok=True)
    source, program = folder / f"trial-{os.getpid()}.c", folder / f"trial-{os.getpid()}"
    source.write_text("#include <omp.h>\nint main(void) { return omp_get_max_threads() < 1; }\n")
    try:
        built = subprocess.run([compiler(), *SANITIZE, str(source), "-o", str(program)], capture_output=True, text=True)
        ran = built.returncode == 0 and subprocess.run([program], env=os.environ | ENVIRONMENT, capture_output=True)
        return None if ran and ran.returncode == 0 else f"{compiler()} has no sanitizers or no OpenMP"
    finally:
        source.unlink()
        program.unlink(missing_ok=True)


def build() -> Path:
    """The driver, compiled from the kernels' sources as they are now. Raises CalledProcessError."""
    headers = b"".join(path.read_bytes() for path in sorted((TOP / "itrex_chat/native").glob("*.h")))
    sources = [*sorted((TOP / "itrex_chat/native").glob("*.c")), TOP / "tests/fuzz_native.c"]
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        objects = list(pool.map(lambda source: _compiled(source, headers), sources))
    program = objects[0].with_name("fuzz_native-" + _digest("".join(map(str, objects)).encode()))
    return _made(program, [*SANITIZE, *map(str, objects), "-lm"])


def run(cases: int, first: int = 0) -> subprocess.CompletedProcess:
    return subprocess.run([build(), str(cases), str(first)], env=os.environ | ENVIRONMENT, capture_output=True, text=True)


def _compiled(source: Path, headers: bytes) -> Path:
    digest = _digest(source.read_bytes() + headers + " ".join((compiler(), *SANITIZE)).encode())
    return _made(TOP / "build" / "fuzz" / f"{source.stem}-{digest}.o", ["-std=gnu11", *SANITIZE, "-c", str(source)])


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
