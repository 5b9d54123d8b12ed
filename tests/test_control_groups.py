"""Memory and cores are what the control groups that a process is in leave."""

from pathlib import Path

import psutil
import pytest

from itrex_chat.foundation import machine


def group(folder: Path, limit: int | str, used: int, names: tuple[str, str], statistics: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, value in zip((*names, "memory.stat"), (f"{limit}\n", f"{used}\n", statistics)):
        (folder / name).write_text(value, "utf-8")


FIRST = ("memory.limit_in_bytes", "memory.usage_in_bytes"), "total_inactive_file 100\ntotal_active_file 20\n"
SECOND = ("memory.max", "memory.current"), "inactive_file 100\nactive_file 20\n"


@pytest.fixture
def groups(tmp_path, monkeypatch) -> Path:
    monkeypatch.setattr(machine, "CGROUP", tmp_path / "groups")
    monkeypatch.setattr(machine, "OWN_GROUPS", tmp_path / "own")
    return tmp_path


@pytest.mark.parametrize("place", ["", "user.slice/run.scope", "user.slice"])
def test_the_limit_of_a_group_or_of_one_that_it_is_in_counts(place, groups):
    (groups / "own").write_text("0::/user.slice/run.scope\n", "utf-8")
    group(groups / "groups" / "user.slice" / "run.scope", "max", 10, *SECOND)
    group(groups / "groups" / place, 5000, 1000, *SECOND)
    assert machine.available_memory() == 5000 - 1000 + 120


@pytest.mark.parametrize("place", ["memory", "memory/mine"])
def test_so_does_one_of_the_first_kind(place, groups):
    (groups / "own").write_text("5:cpu:/other\n4:memory:/mine\n", "utf-8")
    group(groups / "groups" / place, 5000, 1000, *FIRST)
    assert machine.available_memory() == 5000 - 1000 + 120


@pytest.mark.parametrize("own", ["", "odd\n", "0::/../../..\n", "4:memory:/gone\n"])
def test_without_a_limit_what_the_system_has_left_counts(own, groups):
    (groups / "own").write_text(own, "utf-8")
    assert abs(machine.available_memory() - psutil.virtual_memory().available) < 1 << 30


@pytest.mark.parametrize(
    "own, place, files",
    [
        ("0::/\n", "", {"cpu.max": "100000 100000\n"}),
        ("0::/user.slice/run.scope\n", "user.slice", {"cpu.max": "150000 100000\n"}),
        ("3:cpu,cpuacct:/mine\n", "cpu/mine", {"cpu.cfs_quota_us": "50000\n", "cpu.cfs_period_us": "100000\n"}),
    ],
)
def test_a_quota_leaves_as_many_threads_as_it_has_cores(own, place, files, groups, monkeypatch):
    monkeypatch.setattr(psutil, "cpu_count", lambda logical=True: 8)
    monkeypatch.setattr(machine.os, "sched_getaffinity", lambda process: set(range(8)), raising=False)
    (groups / "own").write_text(own, "utf-8")
    assert machine.threads() == 8
    (groups / "groups" / place).mkdir(parents=True)
    for name, value in files.items():
        (groups / "groups" / place / name).write_text(value, "utf-8")
    assert machine.threads() == (2 if files.get("cpu.max") == "150000 100000\n" else 1)


@pytest.mark.parametrize("quota", ["max 100000", "-1", "", "0 0", "odd"])
def test_a_quota_that_is_none_leaves_all_cores(quota, groups, monkeypatch):
    monkeypatch.setattr(psutil, "cpu_count", lambda logical=True: 4)
    monkeypatch.setattr(machine.os, "sched_getaffinity", lambda process: set(range(4)), raising=False)
    (groups / "own").write_text("0::/\n", "utf-8")
    (groups / "groups" / "cpu").mkdir(parents=True)
    for name in ("cpu.max", "cpu/cpu.cfs_quota_us", "cpu/cpu.cfs_period_us"):
        (groups / "groups" / name).write_text(quota, "utf-8")
    assert machine.threads() == 4
