"""Models that other programs keep on this machine, and staying off the network."""

import hashlib
from pathlib import Path

import pytest
from downloading import MODEL, WEIGHTS, download, home, hub, on_both, refused, server
from standin_hub import REPOSITORY

from itrex_chat import pull
from itrex_chat.foundation.errors import SourceError
from itrex_chat.settings.source_spec import SourceSpec
from itrex_chat.sources import digests, hubs
from itrex_chat.sources.digests import DigestMemo


def test_a_model_in_another_programs_cache_is_used_from_there(hub, home, tmp_path, capsys, monkeypatch):
    """In Hugging Face's cache for ModelScope's recipe, too, where it names both."""
    snapshot = hugging_face_cache(tmp_path)
    read, sha256 = [], digests.sha256
    monkeypatch.setattr(digests, "sha256", lambda path, bar=None: read.append(path.name) or sha256(path, bar))
    used = download("modelscope", home, huggingface=REPOSITORY)
    assert used == MODEL and hub.transfers == []
    assert str(snapshot) in capsys.readouterr().err
    [weights] = home.rglob(WEIGHTS)
    assert weights.samefile(snapshot / WEIGHTS)  # linked, not copied
    assert DigestMemo(home).known([weights])
    assert len(read) == len(set(read)) == len(MODEL)  # each once


def test_an_older_model_in_modelscopes_cache_is_used_as_far_as_it_is_the_same(hub, home, tmp_path):
    folder = tmp_path / "user" / ".cache" / "modelscope" / "hub" / "models" / "owner" / "model"
    folder.mkdir(parents=True)
    for file, content in (MODEL | {"config.json": b'{"model_type": "chatgln"}'}).items():
        (folder / file).write_bytes(content)
    assert download("modelscope", home) == MODEL
    assert [transfer.name for transfer in hub.transfers] == ["config.json"]


def hugging_face_cache(tmp_path: Path, commit: str = "0" * 40) -> Path:
    """The model as huggingface_hub keeps it."""
    root = tmp_path / "user" / ".cache" / "huggingface" / "hub" / "models--owner--model"
    snapshot = root / "snapshots" / commit
    for folder in (snapshot, root / "blobs", root / "refs"):
        folder.mkdir(parents=True)
    (root / "refs" / "main").write_text(commit, "utf-8")
    for file, content in MODEL.items():
        large = file.endswith(".safetensors")
        git = hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
        blob = root / "blobs" / (hashlib.sha256(content).hexdigest() if large else git)
        blob.write_bytes(content)
        (snapshot / file).symlink_to(blob)
    return snapshot


@on_both
def test_offline_asks_nothing_of_the_network(hub, home, name, monkeypatch):
    monkeypatch.setenv("ITREX_CHAT_OFFLINE", "1")
    assert refused(name, home).startswith("owner/model is not on this machine, and the network is not to be used. ")
    assert hub.questions == 0 and hub.transfers == []
    monkeypatch.delenv("ITREX_CHAT_OFFLINE")
    download(name, home)
    monkeypatch.setenv("ITREX_CHAT_OFFLINE", "1")
    asked = hub.questions
    assert download(name, home) == MODEL
    next(home.rglob(WEIGHTS)).unlink()
    assert "1 files are missing (9 MB)" in refused(name, home)
    with pytest.raises(SourceError, match="has changed cannot be asked, as the network is not to be used"):
        hubs.download(SourceSpec(**{"hub": name, name: REPOSITORY}), home, refresh=True)
    assert hub.questions == asked


def test_a_command_can_be_told_to_stay_offline(hub, home, monkeypatch, capsys):
    monkeypatch.setenv("ITREX_CHAT_CACHE", str(home))
    monkeypatch.setenv("ITREX_CHAT_OFFLINE", "")  # the option sets it
    assert pull.main([REPOSITORY, "--offline"]) == 1
    assert "the network is not to be used" in capsys.readouterr().err and hub.questions == 0


def test_offline_takes_what_hugging_faces_cache_has(hub, home, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert "Unset HF_HUB_OFFLINE to download it" in refused("huggingface", home)
    hugging_face_cache(tmp_path)
    assert download("huggingface", home) == MODEL
    assert hub.questions == 0 and hub.transfers == []
    assert download("modelscope", home) == MODEL and hub.questions  # which that says nothing of
