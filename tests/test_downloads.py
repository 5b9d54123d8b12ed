"""Downloads over lines that fail in all the ways that lines and hubs do, from a stand-in of both hubs."""

import hashlib
import itertools
import os
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
from certificates import certificate
from standin_hub import FAILED, OVERLOADED, REPOSITORY, Refusal, StandinHub, StandinServer
from standin_proxy import StandinProxy

from itrex_chat import pull
from itrex_chat.foundation.errors import SourceError
from itrex_chat.settings.source_spec import SourceSpec
from itrex_chat.sources import hubs, meter, web
from itrex_chat.sources.digests import DigestMemo
from itrex_chat.sources.pace import Pace
from itrex_chat.sources.partial import Partial

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


@on_both
def test_a_large_file_comes_in_ranges_and_nothing_comes_twice(hub, home, name):
    assert download(name, home) == MODEL
    assert len([transfer for transfer in hub.transfers if transfer.name == WEIGHTS]) == 3
    assert sent(hub) == SIZE


@on_both
def test_who_has_nothing_left_takes_half_of_a_slow_range(hub, home, name, monkeypatch):
    monkeypatch.setattr(hubs, "PACE", replace(PACE, worth_dividing=0.2))
    hub.rate = 4e6
    assert download(name, home) == MODEL
    starts = sorted(transfer.start for transfer in hub.transfers if transfer.name == WEIGHTS)
    assert starts[0] == 0 and len(set(starts)) > 3


@on_both
def test_connections_that_are_cut_again_and_again_lose_nothing(hub, home, name):
    cuts = iter([1, 100_000, 7, 1 << 20, *[300_000] * 12])
    hub.weather = lambda: next(cuts, None)
    assert download(name, home) == MODEL
    assert next(cuts, None) is None and len(hub.transfers) > 16
    # A reset takes with it what was on its way.
    assert sent(hub) < 1.5 * SIZE


@on_both
@pytest.mark.parametrize("status", [429, 503])
def test_a_hub_that_asks_to_come_back_is_given_the_time(hub, home, name, status):
    hub.refusals = [Refusal(status, {"Retry-After": "1"}), Refusal(500)]
    hub.file_refusals = [Refusal(status, {"Retry-After": "1"}), Refusal(502)]
    began = time.monotonic()
    assert download(name, home) == MODEL
    assert time.monotonic() - began >= 2
    assert hub.refusals == hub.file_refusals == []


@on_both
def test_a_hub_that_asks_for_an_hour_is_not_waited_for(hub, home, name):
    hub.refusals = [Refusal(429, {"Retry-After": "3600"})]
    told = refused(name, home)
    assert told == f"{TITLES[name]} is too busy (HTTP 429) and asks to come back in 60 min. What has come is kept."


@on_both
def test_an_outage_in_the_middle_is_sat_out(hub, home, name):
    def weather():
        if len(hub.transfers) == 3:
            hub.away_until = time.monotonic() + 1
        return

    hub.weather = weather
    assert download(name, home) == MODEL


@on_both
def test_an_outage_without_end_is_told_and_what_came_is_kept(hub, home, name, monkeypatch):
    monkeypatch.setattr(hubs, "PACE", Pace(patience=1, first_pause=0.02, longest_pause=0.1, silence=1))

    def weather():
        if len(hub.transfers) == 4:
            hub.away_until = time.monotonic() + 1000
        return

    hub.weather = weather
    assert refused(name, home).startswith(f"{TITLES[name]} cannot be reached (")
    hub.away_until, hub.weather, came = 0, None, sent(hub)
    assert download(name, home) == MODEL
    assert sent(hub) <= SIZE + 4 * PACE.piece and came > 0


@on_both
@pytest.mark.parametrize("turn", [{"ranges": False}, {"ranges_as_200": True}])
def test_servers_without_ranges_and_with_odd_ones_are_understood(hub, home, name, turn):
    for knob, value in turn.items():
        setattr(hub, knob, value)
    hub.cuts, hub.cut_at = 2, 2 << 20
    assert download(name, home) == MODEL


@on_both
def test_the_token_goes_to_the_hub_and_to_no_other_host(hub, home, name, monkeypatch):
    monkeypatch.setenv(TOKENS[name], hub.token)
    hub.private = True
    assert download(name, home) == MODEL
    assert any(hub.token in shown for shown in hub.shown) and hub.leaks == []


@on_both
def test_a_mirror_may_send_on_to_another_address_which_does_not_get_the_token(hub, home, name, monkeypatch):
    mirror = StandinServer()
    mirror.hub = StandinHub({}, moved_to=os.environ["HF_ENDPOINT"])
    at(f"{mirror.endpoint}/", monkeypatch)
    monkeypatch.setenv(TOKENS[name], "hf_secret")
    assert download(name, home) == MODEL
    assert mirror.hub.shown and not hub.shown and not hub.leaks
    mirror.close()


@on_both
def test_without_its_digests_a_file_is_taken_by_its_size_and_its_digest_remembered(hub, home, name):
    hub.without_digests = True
    assert download(name, home) == MODEL
    [folder] = home.glob(f"hubs/{name}--owner--model/*")
    weights = folder / WEIGHTS
    assert DigestMemo(home).known([weights]) == {weights: hashlib.sha256(MODEL[WEIGHTS]).hexdigest()}


def test_a_mirror_that_lists_no_sizes_is_asked_for_each_file(hub, home):
    hub.without_sizes = True
    assert download("huggingface", home) == MODEL
    hub.damaged.add(WEIGHTS)
    assert "arrived damaged" in refused("huggingface", home / "other")


def test_modelscope_is_understood_where_it_says_overload_with_404_and_failure_with_200(hub, home):
    hub.refusals = [OVERLOADED, FAILED]
    hub.file_refusals = [OVERLOADED, FAILED, OVERLOADED]
    assert download("modelscope", home) == MODEL


def test_modelscopes_listing_at_a_commit_may_fail(hub, home):
    """The branch is listed, which is all that is needed."""
    asked = itertools.count()
    answers = hub.refusals

    class SecondFails(list):
        def __bool__(self):
            return next(asked) == 1

        def pop(self, index=0):
            return Refusal(500)

    hub.refusals = SecondFails(answers)
    folder, origin = hubs.download(SourceSpec(modelscope=REPOSITORY), home)
    assert (folder / WEIGHTS).read_bytes() == MODEL[WEIGHTS] and origin["commit"] == "master"


@pytest.mark.parametrize("deleted", [True, False])
def test_modelscopes_listing_says_which_commit_a_branch_is_at(hub, home, deleted):
    hub.names_commit = True
    if deleted:
        hub.push({key: content for key, content in MODEL.items() if key != "tokenizer.model"})
    _folder, origin = hubs.download(SourceSpec(modelscope=REPOSITORY), home)
    assert origin["commit"] == hub.head.sha


def test_a_private_repository_of_modelscope_is_no_missing_one(hub, home):
    hub.private = True
    assert refused("modelscope", home).startswith("ModelScope does not give owner/model to everyone. ")


def test_a_wrong_token_is_told_as_such(hub, home, monkeypatch):
    hub.private = True
    monkeypatch.setenv("HF_TOKEN", "hf_wrong")
    told = refused("huggingface", home)
    assert told.startswith("Hugging Face does not accept your access token. Set HF_TOKEN to a valid one")


@on_both
def test_a_commit_that_vanished_says_refresh(hub, home, name):
    hub.damaged.add(WEIGHTS)
    refused(name, home)
    hub.damaged.clear()
    hub.commits.clear()
    hub.push(MODEL | {"README.md": b"# A model"})
    assert refused(name, home).endswith("Take what is there now with --refresh.")


@on_both
def test_a_file_that_changed_at_the_hub_is_no_download(hub, home, name):
    hub.weather = lambda: hub.head.files.update({WEIGHTS: MODEL[WEIGHTS][:-1]})
    assert f"{WEIGHTS} arrived damaged" in refused(name, home)


@on_both
def test_a_page_in_place_of_a_file_is_told(hub, home, name):
    hub.weather = lambda: setattr(hub, "page", b"<html>Please log in</html>")
    assert "cannot be understood (a page came in place of " in refused(name, home)


@on_both
@pytest.mark.parametrize(
    "headers",
    [{"Location": "http://[/"}, {"Location": "http://127.0.0.1:99999999/"}, {"Location": "file:///etc/passwd"}],
)
def test_a_hub_that_sends_us_to_no_address_is_told(hub, home, name, headers):
    hub.refusals = [Refusal(302, headers)] * 3
    assert refused(name, home).startswith(f"{TITLES[name]} gave an answer that cannot be understood (")


@on_both
@pytest.mark.parametrize(
    "turn", [{"files": 3}, {"files": [{"rfilename": 1, "Path": 1}]}, {"files": [None]}, [], None, "text", {"sha": []}]
)
def test_a_listing_of_anything_else_is_told(hub, home, name, turn):
    files = turn.get("files") if isinstance(turn, dict) else None
    hub.refusals = [
        Refusal(200, {}, turn | {"siblings": files, "Data": {"Files": files}} if isinstance(turn, dict) else turn)
    ]
    told = refused(name, home)
    assert "cannot be understood (" in told or "holds no model to work with" in told


@on_both
def test_a_disk_that_becomes_full_is_told_and_what_came_is_kept(hub, home, name, monkeypatch):
    write, written = Partial.write, itertools.count()

    def full(self, at, data):
        if next(written) > 30:
            raise OSError(28, "No space left on device")
        write(self, at, data)

    monkeypatch.setattr(Partial, "write", full)
    assert refused(name, home).startswith("Downloading owner/model failed: there is no space left on the disk; ")
    monkeypatch.setattr(Partial, "write", write)
    assert download(name, home) == MODEL


@on_both
def test_a_piece_that_did_not_reach_the_disk_comes_again(hub, home, name):
    """After a power failure a file may have holes where its list says that there are none."""
    hub.weather = lambda: setattr(hub, "away_until", time.monotonic() + 1000) if len(hub.transfers) == 5 else None
    hubs.PACE = Pace(patience=0.5, first_pause=0.02, longest_pause=0.1, silence=1)
    refused(name, home)
    hub.weather, hub.away_until = None, 0
    for path in home.rglob("*.incomplete"):
        content = bytearray(path.read_bytes())
        content[:1000] = bytes(min(1000, len(content)))
        path.write_bytes(content)
    assert download(name, home) == MODEL


@on_both
def test_the_other_hub_gives_the_rest_where_its_digests_agree(hub, home, name, server, monkeypatch, capsys):
    other = HUBS[1 - HUBS.index(name)]
    second = StandinServer()
    second.hub = StandinHub(MODEL)
    monkeypatch.setenv({"modelscope": "MODELSCOPE_ENDPOINT", "huggingface": "HF_ENDPOINT"}[other], second.endpoint)
    monkeypatch.setattr(hubs, "PACE", Pace(patience=0.7, first_pause=0.02, longest_pause=0.1, silence=1))
    hub.weather = lambda: setattr(hub, "away_until", time.monotonic() + 1000) if len(hub.transfers) == 3 else None
    assert download(name, home, **{other: REPOSITORY}) == MODEL
    assert f"The rest comes from {TITLES[other]}, which has the same files." in capsys.readouterr().err
    second.hub.push(MODEL | {WEIGHTS: b"other weights"})
    hub.transfers.clear()
    hub.away_until = 0
    assert "cannot be reached" in refused(name, home / "another", **{other: REPOSITORY})
    second.close()


PROXIES = {
    "http": {"http_proxy": "http://{}"},
    "socks5": {"ALL_PROXY": "socks5://{}"},
    "socks5h": {"all_proxy": "socks5h://{}"},
    "of GNOME": {"all_proxy": "socks://{}"},
    "the usual pair": {"http_proxy": "http://{}", "https_proxy": "http://{}", "all_proxy": "socks5://{}"},
}


@pytest.mark.parametrize("kind", PROXIES)
@on_both
def test_proxies_are_gone_through(hub, server, home, name, kind, monkeypatch):
    proxy = StandinProxy()
    for variable, address in PROXIES[kind].items():
        monkeypatch.setenv(variable, address.format(proxy.address))
    # Only the proxy knows this host; with socks5 names are resolved here.
    host = "localhost" if kind == "socks5" else "hub.invalid"
    at(server.endpoint.replace("127.0.0.1", host), monkeypatch)
    assert download(name, home) == MODEL
    assert proxy.asked and {asked.split()[0] for asked in proxy.asked} == {
        "GET" if "http_proxy" in PROXIES[kind] else "socks"
    }
    proxy.shutdown()


def test_a_host_that_needs_no_proxy_is_reached_without(hub, home, monkeypatch):
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    assert download("modelscope", home) == MODEL


@pytest.mark.parametrize(
    "address, sentence",
    [
        ("socks7://127.0.0.1:9", "The address of a proxy in the environment cannot be used ("),
        ("http://user:secret@127.0.0.1:9", "ModelScope cannot be reached (the proxy: Connection refused)"),
        ("socks5h://user:secret@127.0.0.1:9", "ModelScope cannot be reached (the proxy: "),
    ],
)
def test_a_proxy_that_cannot_be_used_is_told_without_its_password(hub, home, monkeypatch, address, sentence):
    monkeypatch.setattr(hubs, "PACE", Pace(patience_for_listing=0.5, first_pause=0.1))
    monkeypatch.setenv("http_proxy", address)
    told = refused("modelscope", home)
    assert told.startswith(sentence) and "secret" not in told


@on_both
def test_certificates_are_checked_and_an_own_one_can_be_named(hub, home, name, tmp_path, monkeypatch):
    trusted = certificate(tmp_path)
    secure = StandinServer(trusted)
    secure.hub = hub
    at(secure.endpoint, monkeypatch)
    told = refused(name, home)
    assert told.startswith(f"{TITLES[name]} shows a certificate that this machine does not trust (self")
    assert "SSL_CERT_FILE" in told
    monkeypatch.setenv("SSL_CERT_FILE", str(trusted))
    assert download(name, home) == MODEL
    proxy = StandinProxy()
    monkeypatch.setenv("https_proxy", f"http://{proxy.address}")
    assert download(name, home / "through a proxy") == MODEL
    assert {asked.split()[0] for asked in proxy.asked} == {"CONNECT"}
    proxy.login = "needed"
    assert refused(name, home / "with a login").startswith("The proxy wants a name and a password. ")
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "none.pem"))
    assert "none.pem" in refused(name, home / "other")
    secure.close()
    proxy.shutdown()


@pytest.mark.parametrize("days", [(-20, -10), (10, 20)])
def test_a_certificate_of_another_time_speaks_of_the_clock(hub, home, tmp_path, monkeypatch, days):
    strange = certificate(tmp_path, *days)
    secure = StandinServer(strange)
    secure.hub = hub
    at(secure.endpoint, monkeypatch)
    monkeypatch.setenv("SSL_CERT_FILE", str(strange))
    assert refused("huggingface", home).startswith(
        "The certificate of Hugging Face is not valid at the time of this machine's "
    )
    secure.close()


def test_a_model_in_another_programs_cache_is_used_from_there(hub, home, tmp_path, capsys):
    """In Hugging Face's cache for ModelScope's recipe, too, where it names both."""
    snapshot = hugging_face_cache(tmp_path)
    used = download("modelscope", home, huggingface=REPOSITORY)
    assert used == MODEL and hub.transfers == []
    assert str(snapshot) in capsys.readouterr().err
    [weights] = home.rglob(WEIGHTS)
    assert weights.samefile(snapshot / WEIGHTS)  # linked, not copied
    assert DigestMemo(home).known([weights])


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


def test_a_download_is_one_line_now_and_then_where_there_is_no_terminal(monkeypatch, capsys):
    now = itertools.count(0, 10)
    monkeypatch.setattr(meter, "time", SimpleNamespace(monotonic=lambda: next(now)))
    with meter.Meter(10_000_000_000, 0, 3) as progress:
        for done in range(1, 101):
            progress.show(done * 100_000_000, done // 40)
        progress.waits("ModelScope", "Connection refused", 300)
        progress.waits("ModelScope", "Connection refused", 300)
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "3 %: 300 MB of 10.00 GB, 0 of 3 files, 10 MB/s, 16 min left"
    assert lines[-1] == "ModelScope does not answer (Connection refused); trying again for 5 min."
    assert len(lines) < 60


@pytest.mark.parametrize(
    "variables, address",
    [
        ({}, "https://www.modelscope.cn"),
        ({"MODELSCOPE_PREFER_AI_SITE": "True"}, "https://www.modelscope.ai"),
        ({"MODELSCOPE_ENDPOINT": "modelscope.ai/"}, "https://modelscope.ai"),
        ({"MODELSCOPE_DOMAIN": "mirror.example"}, "https://mirror.example"),
    ],
)
def test_modelscopes_sites_and_mirrors_can_be_chosen(monkeypatch, variables, address):
    from itrex_chat.sources import hub_apis

    for variable in ("MODELSCOPE_ENDPOINT", "MODELSCOPE_DOMAIN", "MODELSCOPE_PREFER_AI_SITE"):
        monkeypatch.delenv(variable, raising=False)
    for variable, value in variables.items():
        monkeypatch.setenv(variable, value)
    assert hub_apis.HUBS["modelscope"].address("a/b", "master", "c").startswith(f"{address}/api/v1/models/a/b/repo?")


CLIENTS = {
    "huggingface": ["-m", "huggingface_hub.cli.hf", "download", REPOSITORY, "--local-dir"],
    "modelscope": ["-m", "modelscope.cli.cli", "download", "--model", REPOSITORY, "--local_dir"],
}


@on_both
def test_the_hubs_own_programs_download_from_the_stand_in(hub, tmp_path, name):
    """Which shows that it is one."""
    folder = tmp_path / "there"
    environment = dict(os.environ, HF_HUB_DISABLE_XET="1")
    done = subprocess.run([sys.executable, *CLIENTS[name], folder], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert {path.name: path.read_bytes() for path in folder.iterdir() if path.name in MODEL} == MODEL
    assert hub.questions and hub.leaks == []


def test_random_faults_end_whole_or_with_a_sentence():
    """The benchmark, a little of it; it counts what comes twice, after kills too."""
    script = Path(__file__).resolve().parent.parent / "benchmarks" / "download_faults.py"
    done = subprocess.run([sys.executable, script, "--downloads", "3", "--seed", "8"], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("\n") == 4 and "3 of 3 downloads ended as they should" in done.stdout


@pytest.mark.parametrize(
    "headers, seconds",
    [
        ({"Retry-After": "7"}, 7),
        ({"Retry-After": "Thu, 01 Jan 1970 00:00:00 GMT"}, 0),
        ({"Retry-After": "soon"}, 0),
        ({"Retry-After": "nan"}, 0),
        ({"Retry-After": "-3"}, 0),
        ({"RateLimit": '"api";r=0;t=36'}, 36),
        ({}, 0),
    ],
)
def test_what_a_hub_asks_to_be_waited_for_is_read(headers, seconds):
    assert web._wait(headers) == seconds
