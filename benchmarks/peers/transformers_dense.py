"""transformers with the unquantized model. Option: `dtype`."""

from measuring.worker import serve


def load():
    from importlib.metadata import version

    import torch
    from transformers import AutoModelForCausalLM

    from peers.transformers_generate import greedy

    class Engine:
        def __init__(self, model, threads, context, dtype):
            torch.set_num_threads(threads)
            self._model = AutoModelForCausalLM.from_pretrained(model, dtype=getattr(torch, dtype)).eval()

        def generate(self, ids, count):
            return greedy(self._model, ids, count)

        def about(self):
            layers = [module for module in self._model.modules() if isinstance(module, torch.nn.Linear)]
            return {
                "versions": {name: version(name) for name in ("torch", "transformers")},
                "weight_bytes": sum(layer.weight.nbytes for layer in layers),
            }

    return Engine


if __name__ == "__main__":
    serve(load)
