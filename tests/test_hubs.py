"""Downloads from a stand-in hub, with the hubs' real libraries, each call in a process of its own.

The libraries read their settings when they are imported, hence the processes.
"""
import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from standin_hub import REPOSITORY, StandinHub

ROOT = Path(__file__).resolve().parent.parent
HUBS = ("modelscope", "huggingface")
CALL = """
import json, sys, time
from pathlib import Path
from itrex_chat.errors import ItrexChatError
from itrex_chat.recipe import SourceSpec
from itrex_chat.sources import hubs
given = json.loads(sys.argv[1])
hubs.PATIENCE = given["patience"] or hubs.PATIENCE
start = time.perf_counter()
try:
    folder, origin = hubs.download(SourceSpec(**given["spec"]), Path(given["home"]), given["refresh"])
    result = {"folder": str(folder), "origin": origin}
except ItrexChatError as error:
    result = {"error": f"{type(error).__name__}: {error}"}
result["seconds"] = time.perf_counter() - start
result["imported"] = [name for name in ("modelscope_hub", "huggingface_hub", "requests", "httpx2", "torch")
                      if name in sys.modules]
print(json.dumps(result))
"""
CONFIG, VOCABULARY = b'{"model_type": "chatglm"}', b"vocabulary" * 50
DATA = {"config.json": CONFIG, "tokenizer.model": VOCABULARY, "model.safetensors.index.json": b'{"weight_map": {}}',
        "model-00001-of-00002.safetensors": b"first" * 400, "model-00002-of-00002.safetensors": b"second" * 400}
PUBLISHED = DATA | {
    "pytorch_model-00001-of-00002.bin": b"first again" * 400, "pytorch_model-00002-of-00002.bin": b"second again" * 400,
    "pytorch_model.bin.index.json": b'{"weight_map": {}}', "modeling_chatglm.py": b"import os", "README.md": b"# A model",
    "quantization.py": b"", "assets/config.json": b"{}", ".gitattributes": b""}
WEIGHTS = "model-00002-of-00002.safetensors"
LARGE = {"config.json": CONFIG, "model-00001-of-00002.safetensors": os.urandom(1 << 20),
         WEIGHTS: os.urandom(24 << 20)}
STALL = 22 << 20  # huggingface_hub writes in pieces of 10 MiB

on_both = pytest.mark.parametrize("hub", HUBS)


@pytest.fixture
def server():
    with_files = StandinHub(PUBLISHED)
    yield with_files
    with_files.close()


@pytest.fixture
def large():
    with_files = StandinHub(LARGE)
    yield with_files
    with_files.close()


class Caller:
    """Calls `download` with a cache of its own."""

    def __init__(self, home: Path):
        self.home = home

    def start(self, hub, endpoint, refresh=False, patience=None, **spec):
        spec = {"hub": hub, hub: REPOSITORY} | spec
        given = {"spec": spec, "home": str(self.home), "refresh": refresh, "patience": patience}
        environment = {key: value for key, value in os.environ.items() if not key.lower().endswith("_proxy")}
        environment |= {"HF_ENDPOINT": endpoint, "MODELSCOPE_ENDPOINT": endpoint, "HOME": str(self.home / "user"),
                        "ITREX_CHAT_LANG": "en", "PYTHONPATH": str(ROOT)}
        return subprocess.Popen([sys.executable, "-c", CALL, json.dumps(given)], env=environment, text=True,
                                stdout=subprocess.PIPE, stderr=subprocess.PIPE)

    def result(self, process):
        output, chatter = process.communicate(timeout=60)
        assert process.returncode == 0, chatter
        assert "Traceback" not in chatter and "WARN" not in chatter and "INFO" not in chatter
        return json.loads(output) | {"chatter": chatter}

    def __call__(self, hub, endpoint, **options):
        return self.result(self.start(hub, endpoint, **options))


@pytest.fixture
def call(tmp_path):
    return Caller(tmp_path)


def contents(result) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in Path(result["folder"]).iterdir()}


def names(server) -> list[str]:
    return sorted(transfer.name for transfer in server.transfers)


@on_both
def test_the_data_files_come_once_and_code_never(server, call, hub):
    result = call(hub, server.endpoint)
    assert contents(result) == DATA
    assert names(server) == sorted(DATA)
    assert result["origin"] == {"kind": hub, "repository": REPOSITORY, "revision": "", "commit": server.head.sha}
    assert Path(result["folder"]).is_relative_to(call.home / "hubs")


@on_both
def test_a_later_call_needs_neither_the_network_nor_the_libraries(server, call, hub):
    first = call(hub, server.endpoint)
    server.close()
    later = call(hub, server.endpoint)
    assert (later["folder"], later["origin"]) == (first["folder"], first["origin"])
    assert later["seconds"] < 0.05 and later["imported"] == [] and later["chatter"] == ""


@on_both
def test_a_branch_stays_at_the_commit_found_first_until_refreshed(server, call, hub):
    old = call(hub, server.endpoint)
    server.push(PUBLISHED | {"config.json": b'{"new": true}'})
    assert call(hub, server.endpoint)["origin"] == old["origin"]
    new = call(hub, server.endpoint, refresh=True)
    assert new["origin"]["commit"] == server.head.sha != old["origin"]["commit"]
    assert contents(new)["config.json"] == b'{"new": true}' and contents(old)["config.json"] == CONFIG
    assert call(hub, server.endpoint)["origin"] == new["origin"]


@on_both
def test_a_refresh_downloads_only_what_has_changed(server, call, hub):
    call(hub, server.endpoint)
    server.transfers.clear()
    server.push(PUBLISHED | {"README.md": b"# Better words", "tokenizer.model": b"new vocabulary"})
    assert contents(call(hub, server.endpoint, refresh=True)) == DATA | {"tokenizer.model": b"new vocabulary"}
    assert names(server) == ["tokenizer.model"]


@on_both
def test_files_that_vanished_or_shrank_come_again_from_the_same_commit(server, call, hub):
    first = call(hub, server.endpoint)
    server.push(PUBLISHED | {WEIGHTS: b"other" * 500, "config.json": b"{}"})
    server.transfers.clear()
    (Path(first["folder"]) / WEIGHTS).unlink()
    (Path(first["folder"]) / "config.json").write_bytes(b"")
    again = call(hub, server.endpoint)
    assert again["origin"] == first["origin"] and contents(again) == DATA
    assert names(server) == ["config.json", WEIGHTS]


@on_both
def test_a_revision_can_be_named_and_has_its_own_record(server, call, hub):
    old = server.head.sha
    server.push(PUBLISHED | {"config.json": b'{"new": true}'})
    assert call(hub, server.endpoint, revision=old)["origin"]["commit"] == old
    assert call(hub, server.endpoint)["origin"]["commit"] == server.head.sha
    server.close()
    assert contents(call(hub, server.endpoint, revision=old))["config.json"] == CONFIG
    assert contents(call(hub, server.endpoint))["config.json"] == b'{"new": true}'


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
@on_both
def test_an_interrupted_download_goes_on_where_it_was(large, call, hub, how):
    large.stall_at = STALL
    process = call.start(hub, large.endpoint)
    assert large.stalled.acquire(timeout=20)
    time.sleep(0.3)  # for the process to write what it has got
    process.send_signal(how)
    process.communicate(timeout=5)  # it does not wait for the transfer to end
    assert process.returncode == -how
    large.release()
    interrupted_at, large.transfers[:] = large.head.sha, []
    large.push(LARGE | {"config.json": b"{}"})
    result = call(hub, large.endpoint)
    assert result["origin"]["commit"] == interrupted_at
    assert contents(result) == LARGE
    assert [transfer.name for transfer in large.transfers] == [WEIGHTS]
    assert large.transfers[0].start >= 20 << 20


@on_both
def test_a_broken_connection_is_taken_up_again_by_the_same_call(large, call, hub):
    large.cuts, large.cut_at = 2, 11 << 20
    result = call(hub, large.endpoint)
    assert contents(result) == LARGE
    assert sum(transfer.sent for transfer in large.transfers if transfer.name == WEIGHTS) <= len(LARGE[WEIGHTS]) * 1.1


@on_both
def test_two_processes_at_once_download_once(server, call, hub):
    server.stall_at = 500
    first = call.start(hub, server.endpoint)
    assert server.stalled.acquire(timeout=20)
    second = call.start(hub, server.endpoint)
    time.sleep(1)
    questions = server.questions
    server.release()
    first, second = call.result(first), call.result(second)
    assert first["folder"] == second["folder"] and contents(second) == DATA
    assert server.questions == questions and second["imported"] == []


@on_both
def test_a_file_with_the_wrong_content_is_refused_and_the_rest_kept(server, call, hub):
    server.damaged.add(WEIGHTS)
    result = call(hub, server.endpoint)
    assert result["error"] == (f"SourceError: {WEIGHTS} came damaged: its content is not what the hub lists. "
                               "Try again; what came whole is kept.")
    server.damaged.clear()
    server.transfers.clear()
    assert contents(call(hub, server.endpoint)) == DATA
    assert names(server) == [WEIGHTS]


@pytest.mark.parametrize("turn, spec, sentence", [
    ({}, {"repository": "owner/other"}, "{hub} has no public repository owner/other. Check the name; if it is a "
     "private one, set {token} to your access token."),
    ({"status": 403}, {}, "{hub} does not give owner/model to everyone. Accept its conditions on the hub's page if it "
     "has some, and set {token} to your access token."),
    ({"gated": 403}, {}, "{hub} does not give owner/model to everyone. Accept its conditions on the hub's page if it "
     "has some, and set {token} to your access token."),
    ({}, {"revision": "v9"}, "owner/model on {hub} has no revision v9. Set source.revision to one of its branches, "
     "tags or commits, or to nothing for the default branch."),
    ({"page": b"<html>Please log in</html>"}, {}, "{hub} gave an answer that cannot be understood "),
    ({"sizes": {"config.json": -1}}, {}, "{hub} gave an answer that cannot be understood (the size of config.json is "),
    ({"sizes": {WEIGHTS: 1 << 60}}, {}, "Downloading owner/model failed: there is no space left on the disk; "),
    ({"status": 410}, {}, "{hub} answered with an error (HTTP 410). "),
    ({}, {"repository": "../evil"}, "'../evil' is not the name of a repository; it should look like owner/name."),
])
@on_both
def test_what_goes_wrong_is_one_sentence(server, call, hub, turn, spec, sentence):
    for knob, value in turn.items():
        setattr(server, knob, value)
    spec = {hub if key == "repository" else key: value for key, value in spec.items()}
    result = call(hub, server.endpoint, **spec)
    title, token = {"modelscope": ("ModelScope", "MODELSCOPE_API_TOKEN"), "huggingface": ("Hugging Face", "HF_TOKEN")}[hub]
    expected = "SourceError: " + sentence.format(hub=title, token=token)
    assert result["error"].startswith(expected) and "\n" not in result["error"]
    assert not server.transfers


def test_on_hugging_face_401_means_that_there_may_be_no_such_repository(server, call):
    server.status = 401
    assert "Hugging Face has no public repository owner/model." in call("huggingface", server.endpoint)["error"]


@on_both
def test_a_hub_that_refuses_connections_is_told_quickly_with_the_ways_out(call, hub):
    other = HUBS[1 - HUBS.index(hub)]
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        endpoint = f"http://127.0.0.1:{free.getsockname()[1]}"
        result = call(hub, endpoint, **{other: "owner/elsewhere"})
    assert "cannot be reached (Connection refused). Name a local folder with --model FOLDER" in result["error"]
    assert f"--set source.hub {other}" in result["error"] and "_ENDPOINT to a mirror" in result["error"]
    assert result["chatter"] == "" and result["seconds"] < 15


@on_both
def test_a_hub_that_does_not_answer_is_given_up(call, hub):
    with socket.create_server(("127.0.0.1", 0)) as silent:
        result = call(hub, f"http://127.0.0.1:{silent.getsockname()[1]}", patience=2)
    assert "cannot be reached (" in result["error"] and "source.hub" not in result["error"]
    assert result["chatter"] == "" and result["seconds"] < 3


@on_both
@pytest.mark.parametrize("lacking", ["config.json", ".safetensors"])
def test_a_repository_without_a_model_is_told(server, call, hub, lacking):
    server.push({name: content for name, content in DATA.items() if not name.endswith(lacking)})
    assert "holds no model to work with" in call(hub, server.endpoint)["error"]
    assert not server.transfers


@on_both
def test_files_cannot_get_out_of_their_folder(server, call, hub):
    hostile = ["../config.json", "/config.json", "model-/../../../x-of-1.safetensors", "..\\model.safetensors",
               "model-..\\..\\x-of-1.safetensors", "folder/tokenizer.json", "model-\n-of-1.safetensors", "..tiktoken"]
    server.push(PUBLISHED | dict.fromkeys(hostile, b"evil"))
    assert contents(call(hub, server.endpoint)) == DATA
    assert names(server) == sorted(DATA)
    assert not [path for path in call.home.rglob("*") if path.is_file() and path.read_bytes() == b"evil"]


@pytest.mark.parametrize("deleted", [True, False])
def test_modelscope_is_asked_for_the_branch_if_no_commit_stands_for_it(server, call, deleted):
    if deleted:  # then no file was last changed by the commit that the branch is at
        server.push({name: content for name, content in DATA.items() if name != "tokenizer.model"})
    else:
        server.pins = False
    result = call("modelscope", server.endpoint)
    assert result["origin"]["commit"] == "master"
    assert contents(result) == server.head.files if deleted else DATA


def test_a_damaged_record_is_as_good_as_none(server, call):
    first = call("huggingface", server.endpoint)
    record, = (call.home / "hubs").glob("*.json")
    record.write_text("{")
    assert call("huggingface", server.endpoint)["origin"] == first["origin"]
    assert names(server) == sorted(DATA)  # the files are still there
