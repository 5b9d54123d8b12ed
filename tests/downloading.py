"""A model on a stand-in of both hubs, and downloads from it."""

import os
from pathlib import Path

import pytest
from standin_hub import REPOSITORY, StandinHub, StandinServer

from itrex_chat.foundation.errors import SourceError
from itrex_chat.settings.source_spec import SourceSpec
from itrex_chat.sources import hubs
from itrex_chat.sources.pace import Pace

HUBS = ("modelscope", "huggingface")
TITLES = {"modelscope": "ModelScope", "huggingface": "Hugging Face"}
TOKENS = {"modelscope": "MODELSCOPE_API_TOKEN", "huggingface": "HF_TOKEN"}
WEIGHTS = "model-00002-of-00002.safetensors"
MODEL = {
    "config.json": b'{"model_type": "chatglm"}',
    "tokenizer.model": b"vocabulary" * 50,
    "model-00001-of-00002.safetensors": os.urandom(300_000),
    WEIGHTS: os.urandom(9 << 20),
}
SIZE = sum(len(content) for content in MODEL.values())
PACE = Pace(patience=20, patience_for_listing=10, first_pause=0.02, longest_pause=0.2, silence=5, worth_dividing=1000)
on_both = pytest.mark.parametrize("name", HUBS)


@pytest.fixture(scope="module")
def server():
    one = StandinServer()
    yield one
    one.close()


@pytest.fixture
def hub(server, monkeypatch, tmp_path):
    """The model on a stand-in that this process has for both hubs; no proxy, token or cache of the user's is seen."""
    for variable in list(os.environ):
        if variable.lower().endswith("_proxy") or variable.startswith(("HF_", "MODELSCOPE_")):
            monkeypatch.delenv(variable)
    monkeypatch.setenv("HOME", str(tmp_path / "user"))
    monkeypatch.setattr(hubs, "PACE", PACE)
    at(server.endpoint, monkeypatch)
    server.hub = StandinHub(MODEL)
    yield server.hub
    server.hub.release()


def at(endpoint: str, monkeypatch) -> None:
    for variable in ("MODELSCOPE_ENDPOINT", "HF_ENDPOINT"):
        monkeypatch.setenv(variable, endpoint)


@pytest.fixture
def home(tmp_path):
    return tmp_path / "cache"


def download(name: str, home: Path, **more) -> dict[str, bytes]:
    folder, _origin = hubs.download(SourceSpec(**{"hub": name, name: REPOSITORY} | more), home)
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def refused(name: str, home: Path, **more) -> str:
    with pytest.raises(SourceError) as told:
        download(name, home, **more)
    return str(told.value)


def sent(hub: StandinHub) -> int:
    return sum(transfer.sent for transfer in hub.transfers)
