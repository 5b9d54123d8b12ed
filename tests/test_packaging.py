"""The package among others: ranges, the lock file, the license, and what doctor says about versions."""

import json
import re
import shlex
import subprocess
import sys
import zipfile
from configparser import ConfigParser
from importlib.metadata import version
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from itrex_chat import doctor, serve
from itrex_chat.foundation import command_line
from itrex_chat.foundation.errors import EngineError

ROOT = Path(__file__).resolve().parent.parent
CALENDAR = ("packaging",)  # a major release there is a year


def lines(text: str) -> list[str]:
    return [line.strip() for line in text.splitlines() if line.strip() and not line.strip().startswith("#")]


def ranges(*extras: str) -> list[Requirement]:
    """What setup.cfg asks for, with these extras."""
    configuration = ConfigParser(delimiters=("=",))
    configuration.read(ROOT / "setup.cfg", "utf-8")
    texts = [configuration["options"]["install_requires"]]
    texts += [configuration["options.extras_require"][extra] for extra in extras]
    return [Requirement(line) for text in texts for line in lines(text)]


def plain(name: str) -> str:
    """A package's name as indexes compare it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def locked() -> dict[str, str]:
    pins = [line.split("==") for line in lines((ROOT / "requirements.lock").read_text("utf-8"))]
    return {plain(name): number for name, number in pins}


def lower_ends() -> dict[str, str]:
    run = subprocess.run(["sh", ".ci/lower_ends"], cwd=ROOT, capture_output=True, text=True, check=True)
    return {plain(name): number for name, number in (line.split("==") for line in run.stdout.splitlines())}


def test_every_requirement_is_a_range_with_two_ends():
    for wanted in ranges("test", "dev"):
        ends = {each.operator for each in wanted.specifier}
        assert ends == ({">="} if wanted.name in CALENDAR else {">=", "<"}), str(wanted)


def test_the_lock_has_one_version_within_each_range():
    for wanted in ranges("test", "dev"):
        assert wanted.specifier.contains(locked()[plain(wanted.name)]), str(wanted)


def test_the_lock_names_everything_by_its_exact_version():
    pins = lines((ROOT / "requirements.lock").read_text("utf-8"))
    assert pins and [line for line in pins if not re.fullmatch(r"[\w.-]+==[\w.]+", line)] == []
    assert "torch==2.13.0" in pins  # setup.sh takes its build for CPUs


@pytest.mark.parametrize("name", ["README.md", "README.zh-CN.md"])
def test_the_torch_that_a_readme_names_is_the_locks(name):
    assert set(re.findall(r"torch==([\d.]+)", (ROOT / name).read_text("utf-8"))) == {locked()["torch"]}


def test_the_lower_ends_are_tried_with_the_locks_torch():
    ends = lower_ends()
    assert ends["torch"] == locked()["torch"]
    for wanted in ranges("test"):
        assert wanted.specifier.contains(ends[plain(wanted.name)])
        if wanted.name != "torch":
            assert f">={ends[plain(wanted.name)]}" in str(wanted.specifier)


def test_make_sets_up_again_when_the_lock_has_changed():
    rule = next(
        line for line in (ROOT / "Makefile").read_text("utf-8").splitlines() if line.startswith(".venv/.installed:")
    )
    assert {"requirements.lock", "setup.cfg", "setup.sh"} <= set(rule.split())


def test_serve_understands_how_the_demo_the_service_and_the_image_start_it(monkeypatch):
    given = []
    monkeypatch.setattr(serve, "command", given.append)
    image = (ROOT / "deploy" / "Dockerfile").read_text("utf-8")
    starts = [
        re.search(r'@echo ".*(itrex_chat\.serve .*)"', (ROOT / "Makefile").read_text("utf-8"))[1].split(),
        re.search(r"^ExecStart=.*(itrex_chat\.serve .*)$", (ROOT / "deploy" / "itrex-chat.service").read_text("utf-8"), re.MULTILINE)[1].split(),
        [*(start := json.loads(re.search(r"^ENTRYPOINT (.*)$", image, re.MULTILINE)[1]))[start.index("itrex_chat.serve") :], "--model", "x"],
    ]  # fmt: skip
    assert [serve.main(arguments) for _verb, *arguments in starts] == [0, 0, 0]
    assert [each.host for each in given] == ["127.0.0.1", "127.0.0.1", "0.0.0.0"]
    copied = [path for line in re.findall(r"^COPY (?!--from)(.*)$", image, re.MULTILINE) for path in line.split()[:-1]]
    assert copied and all((ROOT / path).exists() for path in copied)


def test_the_wheel_carries_the_license_and_the_ranges(wheel):
    with zipfile.ZipFile(wheel) as archive:
        [metadata] = [archive.read(name).decode() for name in archive.namelist() if name.endswith("/METADATA")]
        [text] = [archive.read(name).decode() for name in archive.namelist() if name.endswith("/LICENSE")]
    assert text == (ROOT / "LICENSE").read_text("utf-8") and "Apache License" in text
    assert "License-Expression: Apache-2.0" in metadata
    asked = [Requirement(line) for line in re.findall(r"^Requires-Dist: (.*)$", metadata, re.MULTILINE)]
    needed = {str(each) for each in asked if each.marker is None}
    assert needed == {str(each) for each in ranges()}


def findings(monkeypatch, *required: str) -> list[doctor.Finding]:
    monkeypatch.setattr(doctor, "requires", lambda name: list(required))
    return doctor._program()


def test_doctor_takes_any_version_within_a_range(monkeypatch):
    _program, packages = findings(monkeypatch, "torch<3,>=2.0", "PyYAML>=5", 'not-there>=1; extra == "test"')
    assert packages.state == doctor.GOOD
    assert packages.text == f"packages: 2 that fit (torch {version('torch').partition('+')[0]})"


def test_doctor_names_what_is_outside_of_its_range_and_the_command_that_mends_it(monkeypatch):
    _program, packages, wrong, missing = findings(monkeypatch, "torch", "PyYAML<6,>=5.1", "not-there<2,>=1")
    assert packages.text.startswith("packages: 1 that fit")
    assert (wrong.state, wrong.text) == (doctor.BAD, f"PyYAML is {version('PyYAML')}, outside of <6,>=5.1")
    assert shlex.split(wrong.remedy) == [sys.executable, "-m", "pip", "install", "PyYAML<6,>=5.1"]
    assert (missing.state, missing.text) == (doctor.BAD, "not-there is missing")
    assert shlex.split(missing.remedy)[-1] == "not-there<2,>=1"


def test_doctor_fails_where_a_package_is_outside_of_its_range(monkeypatch, capsys):
    monkeypatch.setattr(doctor, "requires", lambda name: ["PyYAML<6,>=5.1"])
    assert doctor.main([]) == command_line.FAILED
    assert "[!!] PyYAML is" in capsys.readouterr().out


@pytest.mark.parametrize("variable, wrong", [("INSTRUCTIONS", "avx9"), ("KERNEL", "avx9")])
def test_doctor_says_what_cannot_be_had_and_all_the_rest(monkeypatch, capsys, variable, wrong):
    monkeypatch.setenv(f"ITREX_CHAT_{variable}", wrong)
    assert doctor.main([]) == command_line.FAILED
    shown = capsys.readouterr().out
    assert shown.count("[!!]") == 1 and "cannot be 'avx9'" in shown and f"unset ITREX_CHAT_{variable}" in shown
    assert "memory:" in shown and "cache:" in shown and "engine native: works" not in shown


@pytest.mark.parametrize(
    "error", [EngineError("It is broken."), RuntimeError("It is broken."), OSError("It is broken.")]
)
def test_doctor_goes_on_where_a_part_of_it_cannot(monkeypatch, error):
    def broken():
        raise error

    monkeypatch.setattr(doctor, "_processor", broken)
    texts = [(finding.state, finding.text) for finding in doctor.examine()]
    assert [text for state, text in texts if state == doctor.BAD and "It is broken." in text]
    assert any(text.startswith("cache:") for _state, text in texts)


@pytest.mark.parametrize("file", ["setup.cfg", "requirements.lock", "pyproject.toml"])
def test_no_package_index_is_named(file):
    assert "://" not in (ROOT / file).read_text("utf-8")
