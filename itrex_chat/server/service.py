"""What all routes share."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from itrex_chat.generation.response import Response
from itrex_chat.server.collected import Collected
from itrex_chat.server.conversations import Conversations
from itrex_chat.server.kept import KeptAnswers
from itrex_chat.server.limits import Limits
from itrex_chat.server.metrics import Metrics
from itrex_chat.server.models import Model, Models
from itrex_chat.server.shares import Shares


@dataclass
class Service:
    """`draining`: the server stops, and takes no more requests."""

    models: Models
    limits: Limits
    metrics: Metrics
    conversations: Conversations = field(default_factory=Conversations)
    kept: KeptAnswers = field(default_factory=KeptAnswers)
    collected: Collected = field(default_factory=Collected)
    shares: Shares = field(default_factory=Shares)
    draining: bool = False

    def default_tokens(self, model: Model) -> int:
        """Tokens of an answer whose request says nothing about them: the recipe's."""
        most = model.recipe.generation.max_new_tokens
        return most if self.limits.tokens is None else min(most, self.limits.tokens)

    def tell(
        self,
        record: dict[str, Any],
        responses: Sequence[Response],
        usage: dict[str, Any],
        reasons: Iterable[str] | None = None,
    ) -> None:
        """Note what came of a request, for the log and the metrics. `reasons`: why answers ended, where they do not say so
        themselves."""
        self.metrics.answered(record["model"], responses, usage)
        record["prompt_tokens"] = usage["prompt_tokens"]
        record["cached_tokens"] = usage["prompt_tokens_details"]["cached_tokens"]
        record["completion_tokens"] = usage["completion_tokens"]
        record["ttft"] = round(max((response.ttft for response in responses), default=0.0), 4)
        record["finish"] = sorted(set(reasons or (response.finish_reason for response in responses)))
