"""Online models, through an endpoint of the test's own: one more column, and a judge whose bias shows."""

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from run_schemas import keeps_its_schemas
from test_compare import answer, record

from itrex_chat import compare as comparing
from itrex_chat import judge as judging
from itrex_chat import online
from itrex_chat.report.verdict import verdicts
from itrex_chat.runs.record import RunRecord


class Endpoint(ThreadingHTTPServer):
    """Answers chat completions with `reply(prompt)`; an HTTP status instead where it gives a number."""

    def __init__(self, reply):
        self.asked, self.keys = [], []
        server = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self):
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                server.asked.append((self.path, body))
                server.keys.append(self.headers.get("Authorization"))
                said = (
                    reply(body["messages"][-1]["content"])
                    if "messages" in body
                    else json.dumps(
                        {
                            "data": [
                                {"index": index, "embedding": [1.0, float(len(text))]}
                                for index, text in enumerate(body["input"])
                            ][::-1]
                        }
                    ).encode()
                )
                content = (
                    said
                    if isinstance(said, bytes)
                    else json.dumps(
                        {
                            "choices": [{"message": {"content": said}, "finish_reason": "stop"}],
                            "usage": {"prompt_tokens": 5, "completion_tokens": 7},
                        }
                    ).encode()
                )
                self.send_response(said if isinstance(said, int) else 200)
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            def log_message(self, *_arguments):
                pass

        super().__init__(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.serve_forever, args=(0.01,), daemon=True).start()

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/v1"


@pytest.fixture
def serve():
    made = []

    def start(reply) -> Endpoint:
        made.append(Endpoint(reply))
        return made[-1]

    yield start
    for server in made:
        server.shutdown()
        server.server_close()


@pytest.fixture
def run(tmp_path, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "secret-key")
    made = record(
        tmp_path / "run",
        [
            answer(variant, id, f"{variant} says {id}", [1, len(variant) + ord(variant[0])])
            for variant in ("fp32", "int4")
            for id in "ab"
        ],
    )
    return made.folder


def test_an_online_model_is_one_more_column(run, serve, capsys):
    server = serve(lambda prompt: f"online on {prompt} <b>")
    assert online.main([str(run), "--model", "gpt-x", "--endpoint", server.address]) == 0
    [model] = comparing.compare([run]).models
    assert [figures.variant for figures in model.figures] == ["fp32", "int4", "online"]
    assert [pair.answer.text for pair in model.pairs["online"]] == ["online on 你好 <b>", "online on two? <b>"]
    assert [verdict.variant for verdict in verdicts(model)] == ["int4"]
    page = (run / "comparison.html").read_text("utf-8")
    assert "online on 你好 &lt;b&gt;" in page.replace('<mark>▸</mark><span class="rest">', "")
    keeps_its_schemas(run)
    assert server.keys == ["Bearer secret-key"] * 2 and server.asked[0][0] == "/v1/chat/completions"
    assert not any("secret-key" in file.read_text("utf-8") for file in run.iterdir() if file.is_file())
    assert online.main([str(run), "--model", "gpt-x", "--endpoint", server.address]) == 0
    assert len(server.asked) == 2  # what is answered is not asked again
    assert online.main([str(run), "--model", "other", "--endpoint", server.address]) == 1
    assert "answers of gpt-x already" in capsys.readouterr().err


def test_an_online_model_gets_the_system_message_that_the_variants_got(run, serve):
    server = serve(lambda prompt: "yes")
    record = RunRecord.go_on(run)
    record.model("m").update({"system": "Answer briefly."})
    record.save()
    record.close()
    assert online.main([str(run), "--model", "gpt-x", "--endpoint", server.address]) == 0
    assert server.asked[0][1]["messages"] == [
        {"role": "system", "content": "Answer briefly."},
        {"role": "user", "content": "你好"},
    ]


def test_without_a_system_message_the_question_stands_alone(run, serve):
    server = serve(lambda prompt: "yes")
    assert online.main([str(run), "--model", "gpt-x", "--endpoint", server.address]) == 0
    assert server.asked[0][1]["messages"] == [{"role": "user", "content": "你好"}]


@pytest.mark.parametrize(
    "reply, expected",
    [
        (lambda prompt: "1", "INT4 better in 0, FP32 better in 0, equal in 0, decided by the order alone in 2"),
        (
            lambda prompt: "2" if "<answer_1>\nint4" in prompt else "1",
            "INT4 better in 0, FP32 better in 2, equal in 0, decided by the order alone in 0",
        ),
        (lambda prompt: "0", "INT4 better in 0, FP32 better in 0, equal in 2, decided by the order alone in 0"),
        (lambda prompt: "hmm", "decided by the order alone in 0, not to be read in 2"),
    ],
)
def test_a_judge_sees_both_orders_so_that_its_bias_shows(run, serve, capsys, reply, expected):
    server = serve(reply)
    assert judging.main([str(run), "--model", "judge-x", "--endpoint", server.address]) == 0
    assert expected in capsys.readouterr().out and len(server.asked) == 4
    comparing.compare([run])
    assert expected in (run / "comparison.html").read_text("utf-8")


def test_a_judge_that_was_interrupted_goes_on_and_asks_nothing_twice(run, serve, capsys):
    calls = []

    def fails_at_the_third(prompt):
        calls.append(prompt)
        return 404 if len(calls) == 3 else "0"

    server = serve(fails_at_the_third)
    assert judging.main([str(run), "--model", "judge-x", "--endpoint", server.address]) == 1
    assert len(server.asked) == 3  # both orders of the first pair, and one that failed
    assert judging.main([str(run), "--model", "judge-x", "--endpoint", server.address]) == 0
    assert len(server.asked) == 5 and "equal in 2" in capsys.readouterr().out
    assert judging.main([str(run), "--model", "judge-x", "--endpoint", server.address]) == 0
    assert len(server.asked) == 5
    assert judging.main([str(run), "--model", "another", "--endpoint", server.address]) == 0
    assert len(server.asked) == 9


def test_the_likeness_of_meanings_comes_from_an_embedding_model(run, serve, capsys):
    server = serve(lambda prompt: "0")
    assert judging.main([str(run), "--model", "judge-x", "--embeddings", "small", "--endpoint", server.address]) == 0
    assert "Similarity of the embeddings: 1.000 (mean cosine)." in capsys.readouterr().out
    assert [body["model"] for path, body in server.asked if path == "/v1/embeddings"] == ["small"] * 2
    comparing.compare([run])
    assert "Similarity of the embeddings" in (run / "comparison.md").read_text("utf-8").replace("\\", "")


@pytest.mark.parametrize(
    "reply, reason",
    [
        (lambda prompt: 401, "refuses the key"),
        (lambda prompt: 404, "HTTP 404"),
        (lambda prompt: b'{"choices": []}', "no chat completion"),
    ],
)
def test_an_endpoint_that_fails_is_told_in_a_sentence(run, serve, capsys, reply, reason):
    assert online.main([str(run), "--model", "gpt-x", "--endpoint", serve(reply).address]) == 1
    error = capsys.readouterr().err
    assert reason in error and "secret-key" not in error and "Traceback" not in error


def test_what_keeps_an_endpoint_from_being_reached_is_in_words(run, capsys, monkeypatch):
    monkeypatch.setattr("itrex_chat.endpoints.endpoint.PAUSE", 0)
    assert online.main([str(run), "--model", "gpt-x", "--endpoint", "http://127.0.0.1:1/v1"]) == 1
    assert "(Connection refused)" in capsys.readouterr().err


def test_an_endpoint_must_be_named(run, capsys, monkeypatch):
    monkeypatch.delenv("OPENAI_BASE_URL", raising=False)
    for address in ([], ["--endpoint", "file:///etc/passwd"], ["--endpoint", "localhost:8000/v1"]):
        assert online.main([str(run), "--model", "gpt-x", *address]) == 1
        assert "an address that begins with http://" in capsys.readouterr().err
