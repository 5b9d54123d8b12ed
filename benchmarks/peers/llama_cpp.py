"""llama.cpp through the C interface of llama-cpp-python: what llama-bench measures, and the choice of the token.

    python -m peers.llama_cpp quantize SOURCE.gguf TARGET.gguf

writes Q4_0 from any other GGUF file.
"""

import sys

from measuring.worker import Stopwatch, serve


def load():
    from importlib.metadata import version

    import llama_cpp as llama
    import numpy as np

    class Engine:
        def __init__(self, model, threads, context):
            llama.llama_backend_init()
            self._model = llama.llama_model_load_from_file(model.encode(), llama.llama_model_default_params())
            params = llama.llama_context_default_params()
            params.n_ctx = params.n_batch = context
            params.n_threads = params.n_threads_batch = threads
            self._context = llama.llama_init_from_model(self._model, params)
            if not self._context:
                raise RuntimeError(f"{model} cannot be loaded")
            self._vocabulary = llama.llama_vocab_n_tokens(llama.llama_model_get_vocab(self._model))

        def generate(self, ids, count):
            llama.llama_memory_clear(llama.llama_get_memory(self._context), True)
            watch, ids = Stopwatch(), list(ids)
            for _step in range(count):
                tokens = (llama.llama_token * len(ids))(*ids)
                if code := llama.llama_decode(self._context, llama.llama_batch_get_one(tokens, len(ids))):
                    raise RuntimeError(f"llama_decode returned {code}")
                logits = llama.llama_get_logits_ith(self._context, -1)
                ids = [int(np.ctypeslib.as_array(logits, (self._vocabulary,)).argmax())]
                watch.token(ids[0])
            return watch.answer()

        def about(self):
            return {
                "versions": {"llama-cpp-python": version("llama-cpp-python")},
                "build": llama.llama_print_system_info().decode(),
            }

    return Engine


def quantize(source: str, target: str) -> None:
    import llama_cpp as llama

    params = llama.llama_model_quantize_default_params()
    params.ftype, params.allow_requantize = llama.LLAMA_FTYPE_MOSTLY_Q4_0, True
    if code := llama.llama_model_quantize(source.encode(), target.encode(), params):
        sys.exit(f"llama_model_quantize returned {code}")


if __name__ == "__main__":
    if sys.argv[1:2] == ["quantize"]:
        quantize(*sys.argv[2:])
    else:
        serve(load)
