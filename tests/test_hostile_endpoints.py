"""Endpoints that nobody vouches for: the key stays with them alone, and an odd reply is a sentence and leaves nothing behind."""

import json
import socketserver
import threading
import time

import pytest
from run_schemas import keeps_its_schemas
from test_compare import answer, record

from itrex_chat import compare as comparing
from itrex_chat import judge as judging
from itrex_chat import online
from itrex_chat.endpoints import endpoint as endpoints
from itrex_chat.endpoints import exchange
from itrex_chat.endpoints.endpoint import Endpoint
from itrex_chat.foundation.errors import RunError
from itrex_chat.ratings import judgements

KEY = "sk-test-0123456789"
MESSAGES = [{"role": "user", "content": "?"}]


class Raw(socketserver.ThreadingTCPServer):
    """Sends whatever bytes `reply(number)` gives, each piece when it comes; `asked` are the requests with their headers."""

    allow_reuse_address = daemon_threads = True

    def __init__(self, reply):
        self.asked = []
        server = self

        class Handler(socketserver.StreamRequestHandler):
            def handle(self):
                head = b""
                while not head.endswith(b"\r\n\r\n") and (line := self.rfile.readline()):
                    head += line
                length = next((int(line[15:]) for line in head.splitlines() if line.startswith(b"Content-Length:")), 0)
                server.asked.append((head + self.rfile.read(length)).decode())
                sent = reply(len(server.asked))
                try:
                    for piece in [sent] if isinstance(sent, bytes) else sent:
                        self.wfile.write(piece)
                except OSError:
                    pass

        super().__init__(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.serve_forever, args=(0.01,), daemon=True).start()

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/v1"


def http(body: bytes, status: str = "200 OK", headers: str = "") -> bytes:
    return f"HTTP/1.1 {status}\r\nContent-Length: {len(body)}\r\n{headers}\r\n".encode() + body


def said(text: object = "yes", **fields) -> bytes:
    """A chat completion with its fields replaced."""
    content = {"choices": [{"message": {"content": text}, "finish_reason": fields.pop("finish_reason", "stop")}]}
    return http(json.dumps(content | fields).encode())


@pytest.fixture
def serve(monkeypatch):
    monkeypatch.setattr(endpoints, "PAUSE", 0)
    made = []

    def start(reply) -> Raw:
        made.append(Raw(reply if callable(reply) else lambda number: reply))
        return made[-1]

    yield start
    for server in made:
        server.shutdown()
        server.server_close()


@pytest.fixture
def run(tmp_path, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    return record(
        tmp_path / "run",
        [answer(v, id, f"{v} says {id}", [1, len(v) + ord(v[0])]) for v in ("fp32", "int4") for id in "ab"],
    ).folder


def failed(run, server, capsys) -> str:
    """The one sentence with which `online` ends; nothing was stored."""
    before = {file.name: file.read_bytes() for file in run.iterdir() if file.suffix in (".json", ".jsonl")}
    assert online.main([str(run), "--model", "gpt-x", "--endpoint", getattr(server, "address", server)]) == 1
    said = capsys.readouterr()
    assert said.out == "" and said.err.startswith("itrex_chat: ") and said.err.count("\n") == 1
    assert KEY not in said.err and "\x1b" not in said.err
    assert before == {file.name: file.read_bytes() for file in run.iterdir() if file.suffix in (".json", ".jsonl")}
    comparing.compare([run])
    return said.err


# Redirects


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_redirect_to_another_host_gets_neither_the_key_nor_the_question(run, serve, capsys, status):
    other = serve(said("from elsewhere"))
    server = serve(http(b"", f"{status} Moved", f"Location: {other.address}/chat/completions\r\n"))
    error = failed(run, server, capsys)
    assert other.asked == [] and len(server.asked) == 1
    assert f"points to {other.address}/chat/completions (HTTP {status})" in error


@pytest.mark.parametrize("status, followed", [(301, False), (302, False), (303, False), (307, True), (308, True)])
def test_a_redirect_within_a_host_is_followed_where_it_keeps_the_method(serve, status, followed):
    server = serve(lambda number: http(b"", f"{status} x", "Location: /v2/\r\n") if number == 1 else said())
    endpoint = Endpoint(server.address, "m", KEY)
    if followed:
        assert endpoint.complete(MESSAGES, 5).text == "yes"
        assert server.asked[1].startswith("POST /v2/ ") and f"Bearer {KEY}" in server.asked[1]
    else:
        with pytest.raises(RunError, match="points to"):
            endpoint.complete(MESSAGES, 5)
        assert len(server.asked) == 1


@pytest.mark.parametrize(
    "location, shown",
    [
        (f"http://evil.example/{KEY}?a={KEY}", "points to http://evil.example/[key] "),
        (f"http://user:{KEY}@evil.example/a\x1b[31m", "points to http://evil.example/a[31m "),
        ("http://evil.example:port/", "points to "),
        ("http://[evil/", "points to ? "),
        ("file:///etc/passwd", "points to file:///etc/passwd "),
        ("", "points to ? "),
    ],
)
def test_where_a_redirect_points_is_told_harmlessly(run, serve, capsys, location, shown):
    assert shown in failed(run, serve(http(b"", "307 x", f"Location: {location}\r\n")), capsys)


def test_redirects_without_end_end(run, serve, capsys):
    assert "one redirect after the other" in failed(run, serve(http(b"", "307 x", "Location: /again\r\n")), capsys)


# The key and the password


@pytest.mark.parametrize("key", ["sk-se\ncret-x", "sk-se\rcret-x", "sk-secret-钥", "sk-se cret-x", "sk-secret-\x7fx"])
def test_a_key_that_no_header_can_hold_is_refused_and_not_shown(run, serve, capsys, monkeypatch, key):
    monkeypatch.setenv("OPENAI_API_KEY", key)
    server = serve(said())
    assert "The key in OPENAI_API_KEY has a character" in (error := failed(run, server, capsys))
    assert server.asked == [] and "cret" not in error and "Authorization" not in error


def test_a_line_break_at_the_end_of_the_key_is_no_part_of_it(run, serve, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", f" {KEY}\r\n")
    server = serve(said())
    assert online.main([str(run), "--model", "gpt-x", "--endpoint", server.address]) == 0
    assert f"Authorization: Bearer {KEY}\r\n" in server.asked[0]


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_a_password_in_the_address_is_refused_and_not_shown(run, capsys, scheme):
    error = failed(run, f"{scheme}://me:pass-word@127.0.0.1:9/v1", capsys)
    assert "has a user or a password in it" in error and "pass-word" not in error and "me:" not in error


def test_a_key_that_an_endpoint_repeats_is_kept_nowhere(run, serve, capsys):
    server = serve(said(f"Your key is {KEY}, thanks."))
    assert online.main([str(run), "--model", "gpt-x", "--endpoint", server.address]) == 0
    comparing.main([str(run)])
    assert "Your key is [key], thanks." in capsys.readouterr().out
    assert not any(KEY in file.read_text("utf-8") for file in run.iterdir() if file.is_file())


def test_a_key_that_is_a_word_takes_nothing_from_an_answer(serve):
    assert Endpoint(serve(said("none of them")).address, "m", "none").complete(MESSAGES, 5).text == "none of them"


@pytest.mark.parametrize("status", [f"400 {KEY}", f"500 {KEY}", f"999999 {KEY}", f"x {KEY}"])
def test_a_key_in_a_status_line_is_not_shown(run, serve, capsys, status):
    assert serve(http(b"", status)).address and failed(run, serve(http(KEY.encode(), status)), capsys)


def test_an_endpoint_does_not_show_its_key_where_it_is_printed():
    assert KEY not in repr(Endpoint("http://x/v1", "m", KEY))


# Replies


@pytest.mark.parametrize(
    "reply",
    [
        said(["a"]),
        said(5),
        said({"text": "a"}),
        said(finish_reason={"a": 1}),
        said(finish_reason=5),
        said(usage=[]),
        said(usage={"prompt_tokens": 10**30}),
        said(usage={"completion_tokens": -1}),
        said(usage={"completion_tokens": True}),
        said(usage={"completion_tokens": "5"}),
        said(usage={"completion_tokens": float("nan")}),
        said().replace(b'"stop"', b"1e9999"),
        http(b"[]"),
        http(b"null"),
        http(b'{"choices": {"0": 1}}'),
        http(b'{"choices": [{"message": ["content"]}]}'),
        http(b"["),
        http(b""),
        http(b"[" * 100_000),
        http(b"1" * 10_000),
        http(b'{"choices": [{"message": {"content": "\xff\xfe"}}]}'),
        http('{"choices": []}'.encode("utf-16")),
    ],
    ids=range(22),
)
def test_a_reply_that_is_no_completion_is_a_sentence_and_leaves_the_run_as_it_was(run, serve, capsys, reply):
    server = serve(reply)
    assert "no chat completion" in failed(run, server, capsys) and len(server.asked) == 1


def test_what_an_endpoint_may_leave_out_is_not_missed(run, serve):
    server = serve(said(None, finish_reason=None, usage=None))
    assert online.main([str(run), "--model", "gpt-x", "--endpoint", server.address]) == 0
    keeps_its_schemas(run)
    assert comparing.compare([run]).models[0].pairs["online"][0].answer.text == ""


@pytest.mark.parametrize(
    "data",
    [
        b"{}",
        b'{"data": [{"index": 0, "embedding": [1]}]}',
        b'{"data": [{"index": 0, "embedding": [1]}, {"index": 0, "embedding": [1]}]}',
        b'{"data": [{"index": 0, "embedding": [1]}, {"index": 1, "embedding": [1, 2]}]}',
        b'{"data": [{"index": 0, "embedding": [0]}, {"index": 1, "embedding": [1]}]}',
        b'{"data": [{"index": 0, "embedding": [1e999]}, {"index": 1, "embedding": [1]}]}',
        b'{"data": [{"index": 0, "embedding": [NaN]}, {"index": 1, "embedding": [1]}]}',
        b'{"data": [{"index": 0, "embedding": [1e200]}, {"index": 1, "embedding": [1e200]}]}',
        b'{"data": [{"index": 0, "embedding": ["1"]}, {"index": 1, "embedding": [1]}]}',
        b'{"data": [{"index": 0, "embedding": [1%s]}, {"index": 1, "embedding": [1]}]}' % (b"0" * 400),
    ],
    ids=range(10),
)
def test_a_reply_that_is_no_embedding_is_a_sentence(serve, data):
    with pytest.raises(RunError, match="no embedding"):
        Endpoint(serve(http(data)).address, "m").similarity("a", "b")


# HTTP


@pytest.mark.parametrize(
    "reply",
    [
        b"\x00\x01\x02\r\n\r\n",
        b"HTTP/1.1 abc\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n" + b"A: b\r\n" * 200 + b"\r\n",
        b"HTTP/1.1 200 OK\r\nA: " + b"b" * 70_000 + b"\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\nabc",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n-5\r\nabc",
        b"",
    ],
    ids=["binary", "status", "headers", "long header", "chunk", "negative chunk", "nothing"],
)
def test_what_is_no_http_is_a_sentence(run, serve, capsys, reply):
    server = serve(reply)
    error = failed(run, server, capsys)
    assert "cannot be reached or understood" in error or "no chat completion" in error


@pytest.mark.parametrize(
    "address",
    [
        "http://127.0.0.1:port/v1",
        "http://127.0.0.1:99999/v1",
        "http://[::1/v1",
        f"http://{'a' * 64}.example/v1",
        "http://a..b/v1",
        "http:///v1",
        "http://127.0.0.1:9/v 1",
        "http://127.0.0.1:9/v1?key=secret-1",
    ],
)
def test_an_address_that_is_none_is_a_sentence(run, capsys, address):
    assert "Name the endpoint" in (error := failed(run, address, capsys)) and "secret-1" not in error


# Time and size


def drip(start: bytes, piece: bytes):
    yield start
    while True:
        time.sleep(0.05)
        yield piece


@pytest.mark.parametrize(
    "start, piece",
    [
        (b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n", b" "),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", b"1\r\n \r\n"),
        (b"HTTP/1.1 200 OK\r\nA: ", b"b"),
        (b"HTTP/1.1 2", b"0"),
        (b"", b"HTTP/1.1 100 Continue\r\n\r\n"),
    ],
    ids=["content", "chunks", "header", "status", "continue"],
)
def test_an_endpoint_that_drips_is_waited_for_no_longer_than_its_time(serve, start, piece):
    server = serve(lambda number: drip(start, piece))
    started = time.monotonic()
    with pytest.raises(RunError, match="did not finish its answer in 1 seconds"):
        Endpoint(server.address, "m", seconds=0.6).complete(MESSAGES, 5)
    assert time.monotonic() - started < 3 and len(server.asked) == 1


def test_a_reply_that_comes_slowly_but_in_time_is_taken(serve):
    pieces = [bytes([byte]) for byte in said()]
    server = serve(lambda number: (time.sleep(0.002) or piece for piece in pieces))
    assert Endpoint(server.address, "m", seconds=20).complete(MESSAGES, 5).text == "yes"


def test_a_reply_of_the_largest_size_is_taken_and_one_byte_more_is_told(serve, monkeypatch):
    reply = said()
    body = len(reply.split(b"\r\n\r\n")[1])
    for largest in (body, body - 1):
        monkeypatch.setattr(exchange, "LARGEST", largest)
        endpoint = Endpoint(serve(reply).address, "m")
        if largest == body:
            assert endpoint.complete(MESSAGES, 5).text == "yes"
        else:
            with pytest.raises(RunError, match="answered with more than"):
                endpoint.complete(MESSAGES, 5)


# Judges


def test_a_second_judge_leaves_the_first_ones_judgements(run, serve, capsys):
    server = serve(lambda number: said("0" if number <= 4 else "1"))
    for model in ("first", "second", "first"):
        assert judging.main([str(run), "--model", model, "--endpoint", server.address]) == 0
    assert len(server.asked) == 8  # nobody is asked twice
    assert [(found.judge, found.equal) for found in judgements.read(run)["m"]["int4"]] == [("first", 2), ("second", 0)]
    comparing.main([str(run)])
    out = capsys.readouterr().out
    for text in (out, (run / "comparison.html").read_text("utf-8"), (run / "comparison.md").read_text("utf-8")):
        assert "first judged 2 pairs" in text and "second judged 2 pairs" in text


def test_judgements_of_the_format_before_are_read_and_go_on(run, serve):
    entry = {"id": "a", "baseline_first": "equal", "variant_first": "equal", "similarity": None}
    content = {"format": 1, "judge": "first", "models": {"m": {"int4": [entry]}}}
    (run / judgements.FILE).write_text(json.dumps(content), "utf-8")
    server = serve(said("0"))
    assert judging.main([str(run), "--model", "first", "--endpoint", server.address]) == 0
    assert len(server.asked) == 2  # the other pair, in both orders
    [judged] = judgements.read(run)["m"]["int4"]
    assert (judged.judge, judged.pairs, judged.equal) == ("first", 2, 2)


@pytest.mark.parametrize(
    "change", [{"id": 5}, {"baseline_first": "x"}, {"variant_first": []}, {"similarity": "1"}, {"similarity": 1e999}]
)
def test_judgements_that_nobody_can_have_written_are_damaged(run, change):
    entry = {"id": "a", "baseline_first": "", "variant_first": "", "similarity": None} | change
    content = {"format": 2, "judges": {"x": {"m": {"int4": [entry]}}}}
    (run / judgements.FILE).write_text(json.dumps(content), "utf-8")
    with pytest.raises(RunError, match="is damaged"):
        judgements.read(run)
