"""transformers' `generate` with a stopwatch, for the contestants that build on it."""

from typing import Any

import torch
from measuring.worker import Answer, Stopwatch
from transformers import GenerationConfig
from transformers.generation.streamers import BaseStreamer


class _Tokens(BaseStreamer):
    """Notes each token's time; the first that comes is the prompt."""

    def __init__(self):
        self.watch, self._prompt = Stopwatch(), True

    def put(self, value):
        if not self._prompt:
            self.watch.token(int(value))
        self._prompt = False

    def end(self):
        pass


@torch.inference_mode()
def greedy(model: Any, ids: list[int], count: int) -> Answer:
    """`count` tokens; no token ends the answer, since the configuration names none."""
    tokens, prompt = _Tokens(), torch.tensor([ids])
    model.generate(
        prompt,
        attention_mask=torch.ones_like(prompt),
        streamer=tokens,
        generation_config=GenerationConfig(max_new_tokens=count, do_sample=False, pad_token_id=0),
    )
    return tokens.watch.answer()
