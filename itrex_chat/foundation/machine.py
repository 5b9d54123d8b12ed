"""The machine: processor, threads, memory, versions."""

import os
import platform
import resource
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from itrex_chat import __version__
from itrex_chat.foundation.digests import sha256_of_json

CGROUP = Path("/sys/fs/cgroup")
OWN_GROUPS = Path("/proc/self/cgroup")
FORCING = ("ITREX_CHAT_INSTRUCTIONS", "ITREX_CHAT_KERNEL")
PACKAGES = ("torch", "transformers", "neural-compressor-pt", "auto-round-lib", "safetensors", "tokenizers")


def threads() -> int:
    """Physical cores that this process may use, no more than its cgroup's CPU quota."""
    import psutil

    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    logical, physical = psutil.cpu_count() or allowed, psutil.cpu_count(logical=False) or allowed
    cores = max(1, allowed * physical // logical)
    quota = _cpu_quota()
    return max(1, min(cores, quota)) if quota else cores


def available_memory() -> int:
    """Bytes that a new process can take: what the system has left, or its cgroup if that is less.

    Pages of files count as left: the system takes them back. Those that were read more than once, as weights are, are
    "active", and a cgroup counts them as used.
    """
    import psutil

    left = [psutil.virtual_memory().available]
    for folder in _groups("memory"):
        for limit, usage, prefix in (
            ("memory.max", "memory.current", ""),
            ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_"),
        ):
            most, used = _number(folder / limit), _number(folder / usage)
            if most is not None and used is not None:
                kinds = (f"{prefix}{kind}_file" for kind in ("inactive", "active"))
                left.append(most - used + sum(_statistic(folder / "memory.stat", kind) for kind in kinds))
    return max(0, min(left))


def _groups(kind: str) -> list[Path]:
    """The folders of the control groups that limit this process' "memory" or "cpu": its own, and those that they are in."""
    folders = [CGROUP, CGROUP / kind]  # in a container, its own
    for line in _lines(OWN_GROUPS):
        _hierarchy, kinds, path = (line.strip().split(":", 2) + ["", ""])[:3]
        if not kinds or kind in kinds.split(","):
            own = (CGROUP / (kind if kinds else "") / path.lstrip("/")).resolve()
            folders += [each for each in (own, *own.parents) if each.is_relative_to(CGROUP)]
    return list(dict.fromkeys(folders))


def peak_memory(process: int | None = None) -> int:
    """The most memory that this process, or another one of ours, has had, in bytes.

    Not getrusage's figure where Linux has a better one: that counts what the
    parent had before it started this program.
    """
    for line in _lines(Path(f"/proc/{process or 'self'}/status")):
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    if process is not None:
        return 0
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def waited_for_cores() -> float | None:
    """Seconds that this process' threads could have run and had no core, in all so far; None where the system does not tell.

    From Linux' /proc/PID/task/TID/schedstat, whose second number is the time
    on a run queue in nanoseconds (sched-stats in the kernel's documentation).
    """
    fields = [(_lines(task / "schedstat") or [""])[0].split() for task in Path("/proc/self/task").glob("*")]
    known = [int(field[1]) for field in fields if len(field) == 3]
    return sum(known) / 1e9 if known else None


def description() -> dict:
    """What a run's record says about where it ran."""
    import psutil

    forced = {name: os.environ[name] for name in FORCING if os.environ.get(name)}
    return ({"forced": forced} if forced else {}) | {
        "name": platform.node(),
        "cpu": cpu_name(),
        "cores": psutil.cpu_count(logical=False),
        "logical_cores": psutil.cpu_count(),
        "instructions": instructions(),
        "memory": psutil.virtual_memory().total,
        "system": platform.platform(),
        "python": platform.python_version(),
        "itrex_chat": __version__,
        "packages": {name: _version(name) for name in PACKAGES},
    }


def called(described: dict) -> str:
    """What a machine of a `description` is called in a record: its name, and some digits of what answers' times depend on."""
    told = ("name", "cpu", "logical_cores", "instructions", "itrex_chat", "forced")
    facts = {name: described.get(name) for name in told}
    return f"{described.get('name') or '?'} {sha256_of_json(facts)[:6]}"


def same(one: dict, other: dict) -> bool:
    """Whether two descriptions are of one machine, as far as they tell; records of earlier versions have no name."""
    if None in (one.get("name"), other.get("name")):
        one, other = one | {"name": None}, other | {"name": None}
    return called(one) == called(other)


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def cpu_name() -> str:
    for line in _lines(Path("/proc/cpuinfo")):
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def instructions() -> list[str]:
    """The processor's vector instructions that matter here."""
    wanted = ("avx2", "avx_vnni", "avx512f", "avx512_vnni", "avx512_bf16", "amx_int8", "amx_bf16")
    flags = next(
        (line.partition(":")[2].split() for line in _lines(Path("/proc/cpuinfo")) if line.startswith("flags")), []
    )
    return [name for name in wanted if name in flags]


def _cpu_quota() -> int | None:
    """The cores that control groups, of either version, allow to be used at a time, at least one."""
    quotas = []
    for folder in _groups("cpu"):
        fields = (_lines(folder / "cpu.max") or [""])[0].split()
        if len(fields) != 2:
            fields = [*_lines(folder / "cpu.cfs_quota_us")[:1], *_lines(folder / "cpu.cfs_period_us")[:1]]
        if len(fields) == 2 and all(field.strip().isdigit() for field in fields) and int(fields[1]):
            quotas.append(max(1, round(int(fields[0]) / int(fields[1]))))
    return min(quotas, default=None)


def _number(path: Path) -> int | None:
    text = (_lines(path) or [""])[0].strip()
    return int(text) if text.isdigit() else None


def _statistic(path: Path, name: str) -> int:
    return next((int(line.split()[1]) for line in _lines(path) if line.split()[:1] == [name]), 0)


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text("utf-8", "replace").splitlines()
    except OSError:
        return []
