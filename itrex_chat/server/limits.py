"""What one client can have of the server."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Limits:
    """`body`: bytes of a request's body, to come within `body_seconds`. `tokens`: of an answer, None for as many as the model
    takes. `seconds`: from the request to the end of its answer. `connections` at a time, `waiting` requests of a model.
    `sending`: seconds that a client may read nothing. `grace`: seconds that answers have to end when the server stops."""

    body: int = 4_000_000
    body_seconds: float = 30.0
    head_seconds: float = 15.0
    tokens: int | None = None
    seconds: float = 600.0
    connections: int = 256
    waiting: int = 256
    sending: float = 60.0
    grace: float = 30.0
