"""Loading a variant: ITREX's own `build_chatbot`, or its layers filled with integers that are there already."""

import os
import platform
import resource
import time

import torch

TOKENS = 16  # of the greedy answer that a saved model must give again


class Loaded:
    """A model of transformers, with ITREX's adapter (`chatbot`) where ITREX built it."""

    def __init__(self, model, name, chatbot=None):
        self.model, self.name, self.chatbot = model, name, chatbot


def load(model, variant, quantization, artifact, matrices, frequencies, threads, trust, own, keep=None, check_ids=()):
    """The variant "fp32", or an integer one: ITREX's `own` quantization, or from the `artifact`'s folder.

    `model` is a folder beside the working directory's; `matrices` has for each
    matrix of ITREX's model the artifact's module and rows. `keep` is a file
    for the integers and scales that ITREX made, `own` a file with scales to
    use instead of the artifact's. Greedy tokens after `check_ids` come back.
    """
    torch.set_num_threads(threads)
    started = time.perf_counter()
    if variant == "fp32":
        loaded = Loaded(*_built(model, None, trust))
    elif artifact is None:
        loaded = Loaded(*_built(model, quantization, trust))
    else:
        loaded = Loaded(_filled(model, quantization, artifact, matrices, own), model)
    _set_frequencies(loaded.model, frequencies)
    seconds = time.perf_counter() - started
    facts = {}
    if keep:
        import itrex_layers

        facts["layers"] = itrex_layers.keep(loaded.model, keep)
    if check_ids:
        from itrex_answering import greedy

        facts["tokens"] = greedy(loaded.model, check_ids, TOKENS)
    return loaded, dict(
        facts, seconds=seconds, memory=peak_memory(), threads=torch.get_num_threads(), **_about(loaded.model)
    )


def _built(name, quantization, trust):
    """What ITREX's own `build_chatbot` makes of a folder: its model, the name and the chatbot."""
    _trust_only_if_asked(trust)
    from intel_extension_for_transformers.neural_chat import PipelineConfig, build_chatbot
    from intel_extension_for_transformers.neural_chat.models import model_utils
    from intel_extension_for_transformers.neural_chat.utils.error_utils import get_latest_error_string
    from intel_extension_for_transformers.transformers import MixedPrecisionConfig, RtnConfig

    config = MixedPrecisionConfig(dtype="float32") if quantization is None else RtnConfig(**quantization)
    try:
        chatbot = build_chatbot(
            PipelineConfig(
                model_name_or_path=name, optimization_config=config, tokenizer_name_or_path=readable_tokenizer(name)
            )
        )
    except AttributeError:  # it goes on after an error, with what is not there
        chatbot = None
        if not get_latest_error_string():
            raise
    if chatbot is None:
        raise RuntimeError("build_chatbot said: {}".format(get_latest_error_string() or "nothing"))
    return model_utils.MODELS[name]["model"].eval(), name, chatbot


def readable_tokenizer(name):
    """The model's folder if its tokenizer can be read here, else the stand-in in it; without one, the folder."""
    from tokenizers import Tokenizer

    stand_in = os.path.join(name, "stand-in")
    if not os.path.isdir(stand_in):
        return name
    try:
        Tokenizer.from_file(os.path.join(name, "tokenizer.json"))
        return name
    except Exception:  # whatever it stumbles over
        return stand_in


def _filled(name, quantization, artifact, matrices, own):
    """ITREX's layers with the artifact's integers, in the model that transformers makes of the configuration."""
    import itrex_layers
    from transformers import AutoConfig, AutoModelForCausalLM
    from transformers.modeling_utils import no_init_weights

    with no_init_weights():
        model = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(name)).eval()
    itrex_layers.fill(model, name, artifact, matrices, quantization, own)
    return model


def _set_frequencies(model, frequencies):
    """Rotary frequencies that the architecture's configuration cannot say."""
    if not frequencies:
        return
    for module in model.modules():
        if hasattr(module, "inv_freq"):
            module.inv_freq = torch.tensor(frequencies)


def _trust_only_if_asked(trust):
    """ITREX asks transformers to run a repository's code wherever a name has "qwen", "chatglm" or "baichuan" in it.

    Without `--trust-remote-code` the question is always answered no.
    """
    if trust:
        return
    from transformers import dynamic_module_utils, models

    def refused(*_arguments, **_options):
        raise RuntimeError("the folder wants its own code to be run")

    for module in (
        dynamic_module_utils,
        models.auto.auto_factory,
        models.auto.configuration_auto,
        models.auto.tokenization_auto,
    ):
        module.get_class_from_dynamic_module = refused


def _about(model):
    from importlib.metadata import version

    layers = [module for module in model.modules() if isinstance(module, torch.nn.Linear)]
    packed = [layer for layer in layers if "QBits" in type(layer).__name__]
    return {
        "version": version("intel-extension-for-transformers"),
        "torch": version("torch"),
        "transformers": version("transformers"),
        "python": platform.python_version(),
        "matrices": len(layers),
        "packed": len(packed),
        "weight_bytes": sum(layer.weight.nbytes for layer in layers),
    }


def peak_memory():
    try:
        with open("/proc/self/status", encoding="utf-8", errors="replace") as status:
            return next(int(line.split()[1]) * 1024 for line in status if line.startswith("VmHWM:"))
    except (OSError, StopIteration):
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
