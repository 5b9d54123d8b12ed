"""Files, disks and terminals that do not do what one expects: each is a sentence, and nothing of somebody else's is lost."""

import os
import shutil

import pytest

from itrex_chat import cache
from itrex_chat.artifacts import ArtifactStore, obtain
from itrex_chat.settings import recipe as recipes


def made(folder, *settings):
    return obtain(recipes.load(str(folder), list(settings))).artifact


def test_what_a_killed_removal_left_is_no_artifact_any_more(models):
    first = made(models("qwen2"))
    key, folder = first.manifest["key"], first.folder
    os.replace(folder, folder.with_name(f".removed-1-{folder.name}"))  # as of a process that was killed here
    store = ArtifactStore()
    assert store.find(key) is None and store.folders() == []
    again = made(models("qwen2"))
    assert again.folder == folder and store.folders() == [folder]
    other = made(models("qwen2"), "quantization.group_size", "64")
    store.remove(other.folder)
    assert store.folders() == [folder] and made(models("qwen2")).folder == folder


def test_what_a_killed_removal_left_of_an_unfinished_artifact_is_none_either(tmp_path):
    (tmp_path / "artifacts" / ".removed-1-name-int4-g32-0123.partial").mkdir(parents=True)
    assert ArtifactStore(tmp_path).partial_folders() == []


def test_a_removal_goes_on_where_a_process_of_the_same_number_was_killed(models):
    folder = made(models("qwen2")).folder
    shutil.copytree(folder, folder.with_name(f".removed-{os.getpid()}-{folder.name}"))
    ArtifactStore().remove(folder)
    assert list(folder.parent.glob("*qwen2*")) == list(folder.parent.glob(".removed-*")) == []


def test_two_artifacts_with_each_others_names_still_answer_for_themselves(models):
    first, second = made(models("qwen2")), made(models("llama"))
    spare = first.folder.with_name("spare")
    for old, new in ((first.folder, spare), (second.folder, first.folder), (spare, second.folder)):
        os.replace(old, new)
    assert made(models("qwen2")).manifest["key"] == first.manifest["key"]
    assert made(models("llama")).manifest["key"] == second.manifest["key"]
    assert cache.main(["verify"]) == 0


def test_an_artifact_under_anothers_name_is_not_written_over(models):
    first = made(models("qwen2"))
    place = first.folder
    ArtifactStore().remove(place)
    second = made(models("llama"))
    os.replace(second.folder, place)
    again = made(models("qwen2"))
    assert again.manifest["key"] == first.manifest["key"] and again.folder != place
    assert made(models("llama")).folder == place


def test_a_model_with_a_long_chinese_name_is_kept(models, tmp_path):
    folder = shutil.copytree(models("qwen2"), tmp_path / ("模" * 80))
    assert made(folder).folder.name.startswith("模" * 26)
