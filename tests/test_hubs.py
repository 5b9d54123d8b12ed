"""Downloads from a stand-in hub, with the hubs' real libraries, each call in a process of its own.

The libraries read their settings when they are imported, hence the processes.
"""

import contextlib
import hashlib
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest
from moments import PATIENCE, until
from standin_hub import REPOSITORY, StandinHub, StandinServer

from itrex_chat.sources.digests import DigestMemo
from itrex_chat.sources.partial import NOTE

ROOT = Path(__file__).resolve().parent.parent
HUBS = ("modelscope", "huggingface")
TITLES = {"modelscope": "ModelScope", "huggingface": "Hugging Face"}
ANSWER = """
import json, sys, time
from pathlib import Path
from itrex_chat.foundation.errors import ItrexChatError
from itrex_chat.settings.source_spec import SourceSpec
from itrex_chat.sources import hubs
from itrex_chat.sources.pace import Pace
for line in sys.stdin:
    given = json.loads(line)
    hubs.PACE = Pace(**{"patience": given["patience"], "patience_for_listing": given["patience"], "first_pause": 0.05,
                        "longest_pause": 0.5, "worth_dividing": 1000} | given["pace"])
    start = time.perf_counter()
    try:
        folder, origin = hubs.download(SourceSpec(**given["spec"]), Path(given["home"]), given["refresh"])
        result = {"folder": str(folder), "origin": origin}
    except ItrexChatError as error:
        result = {"error": f"{type(error).__name__}: {error}"}
    result["seconds"] = time.perf_counter() - start
    result["imported"] = [name for name in ("modelscope_hub", "huggingface_hub", "requests", "httpx2", "torch")
                          if name in sys.modules]
    print(json.dumps(result), flush=True)
"""
CONFIG, VOCABULARY = b'{"model_type": "chatglm"}', b"vocabulary" * 50
DATA = {
    "config.json": CONFIG,
    "tokenizer.model": VOCABULARY,
    "model.safetensors.index.json": b'{"weight_map": {}}',
    "model-00001-of-00002.safetensors": b"first" * 400,
    "model-00002-of-00002.safetensors": b"second" * 400,
}
PUBLISHED = DATA | {
    "pytorch_model-00001-of-00002.bin": b"first again" * 400,
    "pytorch_model-00002-of-00002.bin": b"second again" * 400,
    "pytorch_model.bin.index.json": b'{"weight_map": {}}',
    "modeling_chatglm.py": b"import os",
    "quantization.py": b"",
    "README.md": b"# A model",
    "assets/config.json": b"{}",
    ".gitattributes": b"",
}
WEIGHTS = "model-00002-of-00002.safetensors"
LARGE = {"config.json": CONFIG, "model-00001-of-00002.safetensors": os.urandom(1 << 20), WEIGHTS: os.urandom(24 << 20)}
STALL = 22 << 20

on_both = pytest.mark.parametrize("hub", HUBS)


class Process:
    """A process that calls `download` as often as it is asked to."""

    def __init__(self, endpoint: str, home: Path, **environment):
        variables = {key: value for key, value in os.environ.items() if not key.lower().endswith("_proxy")}
        variables |= {
            "HF_ENDPOINT": endpoint,
            "MODELSCOPE_ENDPOINT": endpoint,
            "HOME": str(home / "user"),
            "ITREX_CHAT_LANG": "en",
            "PYTHONPATH": str(ROOT),
        } | environment
        self.stderr = tempfile.TemporaryFile("a+")  # noqa: SIM115  `close` closes it
        self.process = subprocess.Popen(
            [sys.executable, "-c", ANSWER],
            env=variables,
            text=True,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.stderr,
        )

    def ask(self, home: Path, hub: str, refresh=False, patience=20, pace=None, **spec) -> None:
        spec = {"hub": hub, hub: REPOSITORY} | spec
        given = {"spec": spec, "home": str(home), "refresh": refresh, "patience": patience, "pace": pace or {}}
        before = self.stderr.seek(0, os.SEEK_END)
        self.process.stdin.write(json.dumps(given) + "\n")
        self.process.stdin.flush()
        self.before = before

    def answer(self) -> dict:
        line = self.process.stdout.readline()
        self.stderr.seek(self.before)
        chatter = self.stderr.read()
        assert line, chatter
        assert not [word for word in ("Traceback", "WARN", "INFO", "ERROR") if word in chatter], chatter
        return json.loads(line) | {"chatter": chatter}

    def close(self) -> None:
        self.process.kill()
        self.process.communicate()
        self.stderr.close()


@pytest.fixture(scope="module")
def at_address():
    return StandinServer()


@pytest.fixture
def server(at_address):
    """The published repository on a stand-in hub."""
    at_address.hub = StandinHub(PUBLISHED)
    yield at_address.hub
    at_address.hub.release()


@pytest.fixture
def large(at_address):
    at_address.hub = StandinHub(LARGE)
    yield at_address.hub
    at_address.hub.release()


@pytest.fixture
def process(at_address, tmp_path):
    """Starts processes of their own, for calls that end them or need them fresh."""
    started = []

    def start(endpoint=at_address.endpoint, **environment) -> Process:
        started.append(Process(endpoint, tmp_path, **environment))
        return started[-1]

    yield start
    for one in started:
        one.close()


@pytest.fixture(scope="module")
def common(at_address, tmp_path_factory):
    """A process for all other calls: to import the libraries takes longer than the calls."""
    one = Process(at_address.endpoint, tmp_path_factory.mktemp("common"))
    yield one
    one.close()


@pytest.fixture
def call(common, tmp_path):
    """Calls `download` with a cache of its own."""

    def ask(hub: str, process: Process = common, **options) -> dict:
        process.ask(tmp_path, hub, **options)
        return process.answer()

    return ask


@pytest.fixture
def dead_end():
    """An address that refuses connections."""
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        yield f"http://127.0.0.1:{unused.getsockname()[1]}"


def contents(result) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in Path(result["folder"]).iterdir()}


def noted(folder: Path) -> int:
    """Bytes that an interrupted download will not fetch again."""
    total = 0
    for path in folder.rglob("*.pieces"):
        with contextlib.suppress(FileNotFoundError):  # of a file that became whole meanwhile
            content = path.read_bytes()
            total += sum(
                length for _at, length, _crc in NOTE.iter_unpack(content[: len(content) // NOTE.size * NOTE.size])
            )
    return total


def sent(server) -> int:
    return sum(transfer.sent for transfer in server.transfers)


def names(server) -> list[str]:
    return sorted(transfer.name for transfer in server.transfers)


@on_both
def test_the_data_files_come_once_and_code_never(server, call, tmp_path, hub):
    result = call(hub)
    assert contents(result) == DATA
    assert names(server) == sorted(DATA)
    assert result["origin"] == {"kind": hub, "repository": REPOSITORY, "revision": "", "commit": server.head.sha}
    assert Path(result["folder"]).is_relative_to(tmp_path / "hubs")


@on_both
def test_a_later_call_needs_neither_the_network_nor_the_libraries(server, call, process, dead_end, hub):
    first = call(hub)
    later = call(hub, process(dead_end))
    assert (later["folder"], later["origin"]) == (first["folder"], first["origin"])
    assert later["seconds"] < 0.05 and later["imported"] == [] and later["chatter"] == ""


@on_both
def test_a_branch_stays_at_the_commit_found_first_until_refreshed(server, call, hub):
    old = call(hub)
    server.push(PUBLISHED | {"config.json": b'{"new": true}'})
    assert call(hub)["origin"] == old["origin"]
    new = call(hub, refresh=True)
    assert new["origin"]["commit"] == server.head.sha != old["origin"]["commit"]
    assert contents(new)["config.json"] == b'{"new": true}' and contents(old)["config.json"] == CONFIG
    assert call(hub)["origin"] == new["origin"]


@on_both
def test_a_refresh_downloads_only_what_has_changed(server, call, hub):
    call(hub)
    server.transfers.clear()
    server.push(PUBLISHED | {"README.md": b"# Better words", "tokenizer.model": b"new vocabulary"})
    assert contents(call(hub, refresh=True)) == DATA | {"tokenizer.model": b"new vocabulary"}
    assert names(server) == ["tokenizer.model"]


@on_both
def test_a_failed_refresh_leaves_the_old_download_in_use(server, call, hub):
    old = call(hub)
    server.push(PUBLISHED | {WEIGHTS: b"new" * 400})
    server.damaged.add(WEIGHTS)
    assert "arrived damaged" in call(hub, refresh=True)["error"]
    assert call(hub)["origin"] == old["origin"]


@on_both
def test_files_that_vanished_or_shrank_come_again_from_the_same_commit(server, call, hub):
    first = call(hub)
    server.push(PUBLISHED | {WEIGHTS: b"other" * 500, "config.json": b"{}"})
    server.transfers.clear()
    (Path(first["folder"]) / WEIGHTS).unlink()
    (Path(first["folder"]) / "config.json").write_bytes(b"")
    again = call(hub)
    assert again["origin"] == first["origin"] and contents(again) == DATA
    assert names(server) == ["config.json", WEIGHTS]


@on_both
def test_a_revision_can_be_named_and_has_its_own_record(server, call, process, dead_end, hub):
    old = server.head.sha
    server.push(PUBLISHED | {"config.json": b'{"new": true}'})
    assert call(hub, revision=old)["origin"]["commit"] == old
    assert call(hub)["origin"]["commit"] == server.head.sha
    offline = process(dead_end)
    assert contents(call(hub, offline, revision=old))["config.json"] == CONFIG
    assert contents(call(hub, offline))["config.json"] == b'{"new": true}'


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
@on_both
def test_an_interrupted_download_goes_on_where_it_was(large, call, process, tmp_path, hub, how):
    large.stall_at = STALL
    interrupted = process()
    interrupted.ask(tmp_path, hub)
    assert large.stalled.acquire(timeout=PATIENCE)
    until(lambda: noted(tmp_path) >= STALL - (1 << 20), interrupted.process)
    interrupted.process.send_signal(how)
    assert interrupted.process.wait(timeout=PATIENCE) == -how  # it does not wait for the transfer to end
    large.release()
    at_first, large.transfers[:] = large.head.sha, []
    large.push(LARGE | {"config.json": b"{}"})
    result = call(hub)
    assert result["origin"]["commit"] == at_first
    assert contents(result) == LARGE
    assert set(names(large)) == {WEIGHTS}
    assert sent(large) <= (2 << 20) + (1 << 20)  # what had not come, and a piece


@on_both
def test_what_was_verified_is_not_hashed_again(large, call, tmp_path, hub):
    weights = Path(call(hub)["folder"]) / WEIGHTS
    assert DigestMemo(tmp_path).known([weights]) == {weights: hashlib.sha256(LARGE[WEIGHTS]).hexdigest()}


@pytest.mark.parametrize("resets", [True, False])
@on_both
def test_a_broken_connection_is_taken_up_again_by_the_same_call(large, call, hub, resets):
    large.cuts, large.cut_at, large.resets = 4, 1 << 20, resets
    assert contents(call(hub)) == LARGE
    assert large.cuts == 0 and len(large.transfers) >= 10
    assert sent(large) < 1.2 * sum(len(content) for content in LARGE.values())


@on_both
def test_two_processes_at_once_download_once(server, process, tmp_path, hub):
    server.stall_at = 500
    first, second = process(), process()
    first.ask(tmp_path, hub)
    assert server.stalled.acquire(timeout=PATIENCE)
    second.ask(tmp_path, hub)
    time.sleep(1)  # for the second to come as far as it can
    second.stderr.seek(0)
    assert second.stderr.read() == "Another process is downloading owner/model; waiting for it.\n"
    questions = server.questions
    server.release()
    first, second = first.answer(), second.answer()
    assert first["folder"] == second["folder"] and contents(second) == DATA
    assert server.questions == questions and second["imported"] == []


@on_both
def test_a_file_with_the_wrong_content_is_refused_and_the_rest_kept(server, call, hub):
    server.damaged.add(WEIGHTS)
    assert call(hub)["error"] == (
        f"SourceError: {WEIGHTS} arrived damaged: its content is not what the hub lists. "
        "Try again; files that are complete are kept."
    )
    server.damaged.clear()
    server.transfers.clear()
    assert contents(call(hub)) == DATA
    assert WEIGHTS in names(server) and "model-00001-of-00002.safetensors" not in names(server)


NOT_FOUND = (
    "{hub} has no public repository owner/other. Check the name; if it is a private one, set {token} to your "
    "access token."
)
NOT_FOR_ALL = (
    "{hub} does not give owner/model to everyone. Accept its conditions on the hub's page if it has some, "
    "and set {token} to your access token."
)
NO_REVISION = (
    "owner/model on {hub} has no revision v9. Set source.revision to one of its branches, tags or commits, "
    "or leave it empty for the default branch."
)


@pytest.mark.parametrize(
    "turns, spec, sentence",
    [
        ({}, {"repository": "owner/other"}, NOT_FOUND),
        ({"status": 403}, {}, NOT_FOR_ALL),
        ({"gated": 403}, {}, NOT_FOR_ALL),
        ({}, {"revision": "v9"}, NO_REVISION),
        ({"status": 410}, {}, "{hub} answered with an error (HTTP 410). "),
        ({"page": b"<html>Please log in</html>"}, {}, "{hub} gave an answer that cannot be understood "),
        (
            {"sizes": {"config.json": -1}},
            {},
            "{hub} gave an answer that cannot be understood (the size of config.json is ",
        ),
        ({"sizes": {WEIGHTS: 1 << 60}}, {}, "Downloading owner/model needs "),
        ({}, {"repository": "../evil"}, "'../evil' is not the name of a repository; it should look like owner/name."),
    ],
)
@on_both
def test_what_goes_wrong_is_one_sentence(server, call, hub, turns, spec, sentence):
    for knob, value in turns.items():
        setattr(server, knob, value)
    error = call(hub, **{hub if key == "repository" else key: value for key, value in spec.items()})["error"]
    title, token = ("ModelScope", "MODELSCOPE_API_TOKEN") if hub == "modelscope" else ("Hugging Face", "HF_TOKEN")
    assert error.startswith("SourceError: " + sentence.format(hub=title, token=token)) and "\n" not in error
    assert not server.transfers


def test_on_hugging_face_401_means_that_there_may_be_no_such_repository(server, call):
    server.status = 401
    assert "Hugging Face has no public repository owner/model." in call("huggingface")["error"]


@on_both
def test_a_hub_that_refuses_connections_is_told_quickly_with_the_ways_out(call, process, dead_end, hub):
    other = HUBS[1 - HUBS.index(hub)]
    result = call(hub, process(dead_end), patience=1, **{other: "owner/elsewhere"})
    assert "cannot be reached (Connection refused). Name a local folder with --model FOLDER" in result["error"]
    assert f"--set source.hub {other}" in result["error"] and "_ENDPOINT to a mirror" in result["error"]
    # Said where there is time for it.
    assert result["chatter"] in ("", f"{TITLES[hub]} does not answer (Connection refused); trying again for 1 s.\n")


@on_both
def test_a_hub_that_does_not_answer_is_given_up(call, process, hub):
    with socket.create_server(("127.0.0.1", 0)) as silent:
        result = call(hub, process(f"http://127.0.0.1:{silent.getsockname()[1]}"), patience=2)
    assert "cannot be reached (" in result["error"] and "source.hub" not in result["error"]
    assert result["chatter"] == "" and result["seconds"] < 15  # and not after the 20 s of a silence


@on_both
@pytest.mark.parametrize("lacking", ["config.json", ".safetensors"])
def test_a_repository_without_a_model_is_told(server, call, hub, lacking):
    server.push({name: content for name, content in DATA.items() if not name.endswith(lacking)})
    assert "holds no model to work with" in call(hub)["error"]
    assert not server.transfers


@on_both
def test_files_cannot_get_out_of_their_folder(server, call, tmp_path, hub):
    hostile = [
        "../config.json",
        "/config.json",
        "model-/../../../x-of-1.safetensors",
        "..\\model.safetensors",
        "model-..\\..\\x-of-1.safetensors",
        "folder/tokenizer.json",
        "model-\n-of-1.safetensors",
        "..tiktoken",
    ]
    server.push(PUBLISHED | dict.fromkeys(hostile, b"evil"))
    assert contents(call(hub)) == DATA
    assert names(server) == sorted(DATA)
    assert not [path for path in tmp_path.rglob("*") if path.is_file() and path.read_bytes() == b"evil"]


@pytest.mark.parametrize("deleted", [True, False])
def test_modelscope_is_asked_for_the_branch_if_no_commit_stands_for_it(server, call, deleted):
    if deleted:  # the commit that the branch is at is not the last one of any file then
        server.push({name: content for name, content in PUBLISHED.items() if name != "tokenizer.model"})
    else:
        server.pins = False
    result = call("modelscope")
    assert result["origin"]["commit"] == "master"
    assert contents(result).keys() == DATA.keys() - ({"tokenizer.model"} if deleted else set())


def test_a_refresh_sees_what_changed_where_there_is_no_commit(server, call):
    server.pins = False
    assert contents(call("modelscope")) == DATA
    new = CONFIG.replace(b"chatglm", b"changed")
    server.push(PUBLISHED | {"config.json": new})
    assert contents(call("modelscope"))["config.json"] == CONFIG
    assert contents(call("modelscope", refresh=True))["config.json"] == new


@on_both
def test_repositories_of_similar_names_are_not_confused(server, call, hub):
    call(hub)
    assert "error" in call(hub, **{hub: REPOSITORY.replace("/", "--")})


def test_modelscopes_older_variable_for_the_address_works_without_a_word(at_address, server, call, process):
    result = call("modelscope", process("", MODELSCOPE_DOMAIN=at_address.endpoint))
    assert contents(result) == DATA and "deprecated" not in result["chatter"]


def test_a_damaged_record_is_as_good_as_none(server, call, tmp_path):
    first = call("huggingface")
    (record,) = (tmp_path / "hubs").glob("*.json")
    whole = json.loads(record.read_text("utf-8"))
    origin, listed = whole["origin"], whole["files"]
    damages = [
        "{",
        *(json.dumps(whole | {"folder": folder}) for folder in ("..", "/etc", [1], "a/b", f"{whole['folder']}/..")),
        *(json.dumps(whole | {"files": files}) for files in ([1], "ab", {"config.json": 1}, {"../a": {"size": 1}})),
        json.dumps(whole | {"files": listed | {"config.json": {"size": "1", "digest": ""}}}),
        json.dumps(whole | {"origin": origin | {"commit": {"a": 1}}}),
    ]
    for damaged in damages:
        record.write_text(damaged, "utf-8")
        result = call("huggingface")
        assert (result["origin"], result["folder"]) == (first["origin"], first["folder"])
    assert names(server) == sorted(DATA)  # the files are still there
