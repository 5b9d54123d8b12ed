"""Proxies that are really gone through, and certificates."""

import pytest
from certificates import certificate
from downloading import MODEL, PACE, TITLES, at, download, home, hub, on_both, refused, server
from standin_hub import StandinServer
from standin_proxy import StandinProxy

from itrex_chat.sources import hubs
from itrex_chat.sources.pace import Pace

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
