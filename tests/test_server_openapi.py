"""Requests made up from the server's own OpenAPI document: whatever they are, none is a mistake of the server."""

from collections import Counter

import hypothesis
import pytest
import schemathesis
from served import serving

CASES = 8  # of each operation
PATIENCE = 60


@pytest.fixture(scope="module")
def server(package_cache):
    with serving(package_cache, "--max-tokens", "4") as served:
        yield served


def operations(document: dict) -> list:
    return [found.ok() for found in schemathesis.openapi.from_dict(document).get_all_operations()]


def test_no_request_of_the_openapi_document_is_a_500(server):
    address = f"http://127.0.0.1:{server.port}"
    found = operations(server.ask("/openapi.json")[2])
    assert {"/v1/chat/completions", "/v1/completions", "/v1/responses", "/tokenize"} <= {each.path for each in found}
    statuses = Counter[int]()
    for operation in found:
        odd = schemathesis.GenerationMode.NEGATIVE if operation.body else schemathesis.GenerationMode.POSITIVE
        for mode in {schemathesis.GenerationMode.POSITIVE, odd}:

            @hypothesis.settings(
                max_examples=CASES,
                derandomize=True,
                deadline=None,
                database=None,
                phases=[hypothesis.Phase.generate],
                suppress_health_check=list(hypothesis.HealthCheck),
            )
            @hypothesis.given(case=operation.as_strategy(generation_mode=mode))
            def ask(case):
                reply = case.call(base_url=address, timeout=PATIENCE)
                statuses[reply.status_code] += 1
                assert reply.status_code < 500, reply.text
                assert reply.status_code == 200 or reply.json()["error"]["message"]

            ask()
    assert statuses[200] and statuses[400], statuses
