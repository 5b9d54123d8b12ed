"""From what generation returns to an answer of a run."""

from itrex_chat.generation.response import Response
from itrex_chat.jobs.answer import Answer, Drafts


def as_answer(
    response: Response, question: str, label: str, variant: str, seconds: float, batch: int | None = None
) -> Answer:
    """`batch`: how many answers were made together at most, where that is more than the response knows."""
    together = max(response.batch, batch or 1)
    return Answer(
        id=question,
        model=label,
        variant=variant,
        text=response.text,
        token_ids=response.token_ids,
        prompt_token_ids=response.prompt_token_ids,
        finish_reason=response.finish_reason,
        prompt_tokens=response.prompt_tokens,
        new_tokens=response.new_tokens,
        ttft=response.ttft,
        tpot=response.tpot,
        tokens_per_second=response.tokens_per_second,
        prefill_tokens_per_second=None if response.cached_tokens else response.prefill_tokens_per_second,
        drafted_tokens=response.drafted_tokens,
        accepted_tokens=response.accepted_tokens,
        contention=response.contention,
        drafts=Drafts(response.drafter, response.judged_tokens, response.agreed_tokens, response.plain_tpot)
        if response.drafter
        else None,
        batch=together if together > 1 else None,
        cached_tokens=response.cached_tokens or None if together == 1 else None,
        seconds=seconds,
    )
