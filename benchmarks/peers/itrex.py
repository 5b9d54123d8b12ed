"""ITREX 1.4.2 with its QBits kernels: int4_fullrange, groups of 32, INT8 compute; it quantizes at every load.

Its saved models cannot be trusted to load again, so its load time contains the quantization.
"""

from measuring.worker import serve


def load():
    from importlib.metadata import version

    import torch
    from intel_extension_for_transformers.transformers import AutoModelForCausalLM, RtnConfig

    from peers.transformers_generate import greedy

    class Engine:
        def __init__(self, model, threads, context):
            torch.set_num_threads(threads)
            config = RtnConfig(bits=4, group_size=32, weight_dtype="int4_fullrange", compute_dtype="int8")
            self._model = AutoModelForCausalLM.from_pretrained(
                model, quantization_config=config, use_neural_speed=False
            )

        def generate(self, ids, count):
            return greedy(self._model, ids, count)

        def about(self):
            layers = [module for module in self._model.modules() if isinstance(module, torch.nn.Linear)]
            packed = sum("QBits" in type(layer).__name__ for layer in layers)
            names = ("intel-extension-for-transformers", "torch", "transformers")
            return {
                "versions": {name: version(name) for name in names},
                "kernel": f"QBits in {packed} of {len(layers)} matrices",
                "weight_bytes": sum(layer.weight.nbytes for layer in layers),
            }

    return Engine


if __name__ == "__main__":
    serve(load)
