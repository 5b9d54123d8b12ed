"""Downloads over lines that fail in all the ways that lines do, from a stand-in of both hubs."""

import itertools
import os
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
from downloading import (
    HUBS,
    MODEL,
    PACE,
    SIZE,
    TITLES,
    WEIGHTS,
    at,
    download,
    home,
    hub,
    on_both,
    refused,
    sent,
    server,
)
from standin_hub import REPOSITORY, Refusal, StandinHub, StandinServer

from itrex_chat.sources import hubs, meter
from itrex_chat.sources.pace import Pace
from itrex_chat.sources.partial import Partial


@on_both
def test_a_large_file_comes_in_ranges_and_nothing_comes_twice(hub, home, name):
    assert download(name, home) == MODEL
    assert len([transfer for transfer in hub.transfers if transfer.name == WEIGHTS]) == 3
    assert sent(hub) == SIZE


@on_both
def test_a_connection_brings_one_range_after_the_other(hub, home, name, monkeypatch):
    """The listing has one, and then the hub and the host that it sends us to."""
    monkeypatch.setattr(hubs, "PACE", replace(PACE, connections=1))
    assert download(name, home) == MODEL
    assert hub.connections == 3 and len(hub.transfers) > 4


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
def test_what_was_begun_goes_on_though_the_hub_does_not_list_it_again(hub, home, name, monkeypatch):
    monkeypatch.setattr(hubs, "PACE", replace(PACE, patience=0.5, patience_for_listing=0.2))
    hub.weather = lambda: setattr(hub, "away_until", time.monotonic() + 1000) if len(hub.transfers) == 4 else None
    refused(name, home)
    hub.away_until, hub.weather, hub.refusals = 0, None, [Refusal(503)] * 1000
    assert download(name, home) == MODEL
    assert "(HTTP 503)" in refused(name, home / "another")  # where nothing has begun


@on_both
def test_a_kill_between_a_files_name_and_its_list_leaves_no_list(hub, home, name, monkeypatch):
    monkeypatch.setattr(hubs, "PACE", replace(PACE, patience=0.5))
    hub.weather = lambda: setattr(hub, "away_until", time.monotonic() + 1000) if len(hub.transfers) == 4 else None
    refused(name, home)
    [config] = home.rglob("config.json")
    config.with_name("config.json.pieces").write_bytes(b"of a process that was killed")
    hub.away_until, hub.weather = 0, None
    assert download(name, home) == MODEL


@on_both
@pytest.mark.parametrize("turn", [{"ranges": False}, {"ranges_as_200": True}])
def test_servers_without_ranges_and_with_odd_ones_are_understood(hub, home, name, turn):
    for knob, value in turn.items():
        setattr(hub, knob, value)
    hub.cuts, hub.cut_at = 2, 2 << 20
    assert download(name, home) == MODEL


@on_both
def test_a_file_that_changed_at_the_hub_is_no_download(hub, home, name):
    hub.weather = lambda: hub.head.files.update({WEIGHTS: MODEL[WEIGHTS][:-1]})
    assert f"{WEIGHTS} arrived damaged" in refused(name, home)


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
