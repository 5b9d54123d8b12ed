"""This project's variants. Options: `variant`, and `recipe` as plain values."""

import copy
import time

from measuring.worker import Answer, serve


def load():
    import torch

    from itrex_chat.foundation import machine
    from itrex_chat.generation.loop import generate
    from itrex_chat.generation.response import Response
    from itrex_chat.neuralchat.chatbot import load_chatbot
    from itrex_chat.settings import recipe as recipes
    from itrex_chat.settings.generation import GenerationConfig

    class Engine:
        def __init__(self, model, threads, context, variant, recipe):
            self._chatbot = load_chatbot(recipes.from_dict(recipe), variant)
            self._decoder, self._tokenizer = self._chatbot.decoder, copy.copy(self._chatbot.session.tokenizer)
            self._tokenizer.stop_ids = frozenset()  # nothing ends an answer

        def generate(self, ids, count):
            config = GenerationConfig(max_new_tokens=count, prompt_lookup=False, draft="none")
            *_pieces, response = generate(self._decoder, self._tokenizer, ids, config)
            assert isinstance(response, Response)  # the last of what it yields
            return Answer(response.token_ids, response.ttft, response.tpot)

        def batch(self, ids, size, count):
            """Seconds for `count` decoded tokens of each of `size` equal prompts, after their prefill."""
            cache = self._decoder.new_cache(len(ids) + count, size)
            cache.begin([len(ids)] * size)
            tokens = self._decoder.forward(torch.tensor([ids] * size), cache).argmax(-1)
            started = time.perf_counter()
            for _step in range(count):
                tokens = self._decoder.forward(tokens[:, None], cache).argmax(-1)
            return time.perf_counter() - started

        def about(self):
            described = machine.description()
            return {
                "versions": described["packages"] | {"itrex_chat": described["itrex_chat"]},
                **self._chatbot.facts(),
            }

    return Engine


if __name__ == "__main__":
    serve(load)
