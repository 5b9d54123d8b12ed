"""Tokens of an answer from a model that ITREX made, with this program's sampling."""

import importlib.util
import time
from types import SimpleNamespace

import torch
from itrex_surroundings import peak_memory, readable_tokenizer

MASK_STEP = 256  # tokens


@torch.inference_mode()
def answer(loaded, tell, superseded, ids, room, stop_ids, sampling, sampler):
    """Prefill, then token after token until one of `stop_ids` or `room` tokens, or nobody waits for them any more.

    `sampler` is the file with the class that chooses tokens. TTFT and TPOT, in
    seconds, are measured as in `generation/loop.py`.
    """
    started = time.perf_counter()
    model = loaded.model
    fit_mask(model, len(ids) + room)
    chooser = _module(sampler).Sampler(SimpleNamespace(**sampling), ids, model.config.vocab_size)
    steps = _logits(model, ids)
    token = chooser.choose(next(steps))
    first = last = time.perf_counter()
    count = 0
    while token not in stop_ids:
        tell("token", id=token)
        count += 1
        if count == room or superseded():
            break
        token = chooser.choose(steps.send(token))
        last = time.perf_counter()
    stopped = token in stop_ids
    decoded = count - 1 + stopped
    tell(
        "end",
        stopped=stopped,
        ttft=first - started,
        tpot=(last - first) / decoded if decoded > 0 else None,
        memory=peak_memory(),
    )


@torch.inference_mode()
def greedy(model, ids, count):
    """The likeliest `count` tokens after `ids`."""
    fit_mask(model, len(ids) + count)
    steps = _logits(model, ids)
    tokens = [int(next(steps).argmax())]
    while len(tokens) < count:
        tokens.append(int(steps.send(tokens[-1]).argmax()))
    return tokens


def _logits(model, ids):
    """float32 [vocabulary] after the prompt, then after each token that is sent."""
    inputs, past = torch.tensor([ids]), None
    while True:
        if isinstance(getattr(model, "lm_head", None), torch.nn.Module) and hasattr(model, "model"):
            out = model.model(input_ids=inputs, past_key_values=past, use_cache=True)
            logits = model.lm_head(out.last_hidden_state[:, -1:])  # of one position: of all they would fill gigabytes
        else:
            out = model(input_ids=inputs, past_key_values=past, use_cache=True)
            logits = out.logits
        past = out.past_key_values
        token = yield logits[0, -1].float()
        inputs = torch.tensor([[token]])


def fit_mask(model, length):
    """Make Llama's mask as large as the answer needs: transformers 4.38 copies all of it for every token."""
    inner = getattr(model, "model", None)
    if hasattr(inner, "causal_mask"):
        size = -(-length // MASK_STEP) * MASK_STEP
        inner.causal_mask = torch.triu(torch.ones(size, size, dtype=torch.bool), diagonal=1)


def own_prompt(loaded, query, system):
    """A question in the words of ITREX's conversation template, as ids of the folder's tokenizer."""
    from intel_extension_for_transformers.neural_chat.models import model_utils

    if readable_tokenizer(loaded.name) != loaded.name:
        raise ValueError("its libraries cannot read this model's tokenizer, which its conversation template needs")
    if loaded.chatbot is None:
        loaded.chatbot = _adapter(loaded.name)
    if system:
        loaded.chatbot.set_customized_system_prompts(system, loaded.name)
    text = loaded.chatbot.prepare_prompt(query)
    tokenizer = model_utils.MODELS.get(loaded.name, {}).get("tokenizer")
    if tokenizer is None:
        from transformers import AutoTokenizer

        tokenizer = AutoTokenizer.from_pretrained(loaded.name)
        model_utils.MODELS[loaded.name] = {"tokenizer": tokenizer}
    return {"ids": tokenizer(text).input_ids, "text": text}


def decode(loaded, ids):
    """The text of ids, by the tokenizer that ITREX loaded."""
    from intel_extension_for_transformers.neural_chat.models import model_utils

    return {"text": model_utils.MODELS[loaded.name]["tokenizer"].decode(ids, skip_special_tokens=True)}


def limits(loaded):
    """Stop ids, context and vocabulary of a model that only ITREX knows."""
    from intel_extension_for_transformers.neural_chat.models import model_utils

    model, tokenizer = loaded.model, model_utils.MODELS[loaded.name]["tokenizer"]
    named = [getattr(model.generation_config, "eos_token_id", None), model.config.eos_token_id, tokenizer.eos_token_id]
    stop_ids = {
        token for value in named for token in (value if isinstance(value, list) else [value]) if isinstance(token, int)
    }
    return {
        "stop_ids": sorted(stop_ids),
        "context": model_utils.get_context_length(model.config),
        "vocabulary": model.config.vocab_size,
    }


def _adapter(name):
    """The class that `build_chatbot` chooses for a name."""
    if "llama" in name:
        from intel_extension_for_transformers.neural_chat.models.llama_model import LlamaModel as Adapter
    elif "qwen" in name:
        from intel_extension_for_transformers.neural_chat.models.qwen_model import QwenModel as Adapter
    else:
        from intel_extension_for_transformers.neural_chat.models.mistral_model import MistralModel as Adapter
    return Adapter(name, "chat")


def _module(path):
    spec = importlib.util.spec_from_file_location("itrex_chat_sampling", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
