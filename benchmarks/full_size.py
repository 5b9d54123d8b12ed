"""A full-size check without downloads: ChatGLM3-6B's real configuration with random float16 weights.

    python benchmarks/full_size.py FOLDER [--tokenizer tokenizer.model]
    python benchmarks/full_size.py FOLDER --algorithms search gptq [--layers 2] [--tokens 65536] [--kills 10]

Writes the folder (12.5 GB in seven safetensors files, once), quantizes it in a process of its own, and prints the time
and the peak memory; then asks FP32 and INT4, with all the memory that is left and with each limit of --memory in GB, where
FP32's tokens must be the same. What was read from disk stands beside a plain reading of the same files, and the rate of
decode beside the memory's, which is read in turn with it (--rounds 0: it is not). `--only rate` measures that alone.

With --algorithms each of these quantizes the folder, in a cache of its own, and nothing is asked; --kills kills it at random moments and looks whether
the same bytes come of it. With fewer --layers, of the same sizes, the time for all 28 is told from theirs; a folder has as many as it was written with.
"""

import argparse
import json
import mmap
import multiprocessing
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from measuring import quantizing
from measuring.bandwidth import ReadBandwidth

from itrex_chat.foundation import machine

CONFIG: dict[str, Any] = {
    "architectures": ["ChatGLMModel"],
    "model_type": "chatglm",
    "add_bias_linear": False,
    "add_qkv_bias": True,
    "apply_query_key_layer_scaling": True,
    "apply_residual_connection_post_layernorm": False,
    "attention_softmax_in_fp32": True,
    "ffn_hidden_size": 13696,
    "fp32_residual_connection": False,
    "hidden_size": 4096,
    "kv_channels": 128,
    "layernorm_epsilon": 1e-05,
    "multi_query_attention": True,
    "multi_query_group_num": 2,
    "num_attention_heads": 32,
    "num_layers": 28,
    "original_rope": True,
    "padded_vocab_size": 65024,
    "post_layer_norm": True,
    "rmsnorm": True,
    "seq_length": 8192,
    "use_cache": True,
    "torch_dtype": "float16",
    "tie_word_embeddings": False,
    "eos_token_id": 2,
    "pad_token_id": 0,
}
SHARDS = 7
TOKENS = 6  # of a round


def shapes(layers: int) -> dict[str, tuple[int, ...]]:
    """Tensor names and shapes of the published ChatGLM3-6B, or of its first layers and its head."""
    c = CONFIG
    hidden, inner, vocabulary = c["hidden_size"], c["ffn_hidden_size"], c["padded_vocab_size"]
    qkv = hidden + 2 * c["multi_query_group_num"] * c["kv_channels"]
    found: dict[str, tuple[int, ...]] = {"transformer.embedding.word_embeddings.weight": (vocabulary, hidden)}
    for number in range(layers):
        block = f"transformer.encoder.layers.{number}."
        found |= {
            block + "input_layernorm.weight": (hidden,),
            block + "post_attention_layernorm.weight": (hidden,),
            block + "self_attention.query_key_value.weight": (qkv, hidden),
            block + "self_attention.query_key_value.bias": (qkv,),
            block + "self_attention.dense.weight": (hidden, hidden),
            block + "mlp.dense_h_to_4h.weight": (2 * inner, hidden),
            block + "mlp.dense_4h_to_h.weight": (hidden, inner),
        }
    return found | {
        "transformer.encoder.final_layernorm.weight": (hidden,),
        "transformer.output_layer.weight": (vocabulary, hidden),
    }


def write_model(folder: Path, layers: int) -> None:
    """The folder with random weights, skipped where it is whole."""
    import torch
    from safetensors.torch import save_file

    folder.mkdir(parents=True, exist_ok=True)
    wanted = shapes(layers)
    names = list(wanted)
    generator = torch.Generator().manual_seed(0)
    homes: dict[str, str] = {}
    for shard in range(SHARDS):
        part = names[shard * len(names) // SHARDS : (shard + 1) * len(names) // SHARDS]
        file = folder / f"model-{shard + 1:05d}-of-{SHARDS:05d}.safetensors"
        homes |= dict.fromkeys(part, file.name)
        if not file.exists():
            tensors = {
                name: torch.ones(wanted[name], dtype=torch.float16)
                if "layernorm" in name
                else torch.empty(wanted[name], dtype=torch.float16).normal_(0, 0.02, generator=generator)
                for name in part
            }
            save_file(tensors, f"{file}.partial", metadata={"format": "pt"})
            os.replace(f"{file}.partial", file)
        print(f"  {file.name}", flush=True)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": homes}), "utf-8")
    (folder / "config.json").write_text(json.dumps(CONFIG | {"num_layers": layers}, indent=2), "utf-8")


def write_tokenizer(folder: Path, given: Path | None) -> None:
    """The real vocabulary if it was named, else a small one trained on this file: quantization needs one to keep."""
    if given:
        (folder / "tokenizer.model").write_bytes(given.read_bytes())
    elif not (folder / "tokenizer.model").exists():
        import sentencepiece

        sentencepiece.SentencePieceTrainer.train(
            input=__file__,
            model_prefix=str(folder / "tokenizer"),
            vocab_size=400,
            byte_fallback=True,
            model_type="bpe",
            minloglevel=2,
        )


def timed(arguments: list[str]) -> tuple[int, float, int, str]:
    """Exit code, seconds, peak memory in bytes and standard error of a command."""
    started = time.perf_counter()
    process = subprocess.Popen([sys.executable, "-m", *arguments], stderr=subprocess.PIPE, text=True)
    error = process.stderr.read() if process.stderr else ""
    _pid, status, usage = os.wait4(process.pid, 0)
    return os.waitstatus_to_exitcode(status), time.perf_counter() - started, usage.ru_maxrss * 1024, error


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--tokenizer", type=Path)
    parser.add_argument("--layers", type=int, default=CONFIG["num_layers"], help="of the model that is written")
    parser.add_argument("--algorithms", nargs="+", default=[], help="quantize with each of these, and ask nothing")
    parser.add_argument("--tokens", type=int, default=65536, help="of calibration")
    parser.add_argument("--kills", type=int, default=0, help="of each algorithm's process")
    parser.add_argument("--memory", type=float, nargs="*", default=[8, 4], help="limits for FP32 in GB; default: 8 4")
    parser.add_argument("--rounds", type=int, default=7, help="of decode and the memory's rate, in turn; default: 7")
    parser.add_argument("--only", choices=["rate"], help="quantize, and measure the rate of decode alone")
    arguments = parser.parse_args()
    print(f"writing {arguments.folder}", flush=True)
    apart(write_model, arguments.folder, arguments.layers)
    write_tokenizer(arguments.folder, arguments.tokenizer)
    size = sum(file.stat().st_size for file in arguments.folder.glob("*.safetensors"))
    print(f"{size / 1e9:.2f} GB", flush=True)

    if arguments.algorithms:
        for algorithm in arguments.algorithms:
            calibrate(arguments.folder, algorithm, arguments.layers, arguments.tokens, arguments.kills)
        return
    code, seconds, peak, error = timed(["itrex_chat.quantize", "--model", str(arguments.folder)])
    print(f"quantize: exit {code}, {seconds:.0f} s, peak memory {peak / 1e9:.2f} GB")
    if code:
        sys.exit(error)
    code, seconds, _peak, error = timed(["itrex_chat.quantize", "--model", str(arguments.folder)])
    print(f"again, from the cache: exit {code}, {seconds:.2f} s")
    if arguments.rounds:
        for variant in ("fp32", "int4"):
            apart(decode_rate, arguments.folder, variant, arguments.rounds)
    if arguments.only:
        return
    print(f"a plain reading of the files: {plain_rate(arguments.folder) / 1e9:.2f} GB/s")
    whole = asked(arguments.folder, 0)
    for limit in arguments.memory:
        same = asked(arguments.folder, limit) == whole
        print(f"  tokens {'the same' if same else 'NOT THE SAME'}")


def apart(what: Callable[..., None], *arguments: Any) -> None:
    """Do it in a process of its own: a child's peak memory counts what its parent had."""
    process = multiprocessing.get_context("spawn").Process(target=what, args=arguments)
    process.start()
    process.join()
    if process.exitcode:
        sys.exit(process.exitcode)


def decode_rate(folder: Path, variant: str, rounds: int) -> None:
    """Print what a variant's decode reads of its weights in a second beside what the memory gives."""
    from itrex_chat.generation.prefill import prefill
    from itrex_chat.neuralchat.chatbot import load_chatbot
    from itrex_chat.settings import recipe as recipes

    memory, decoder = ReadBandwidth(machine.threads()), load_chatbot(recipes.load(str(folder)), variant).decoder
    cache, rates, shares = decoder.new_cache(64), list[float](), list[float]()
    prefill(decoder, list(range(100, 108)), cache)
    for _round in range(rounds):
        given, seconds = memory.measure() * 1e9, list[float]()
        for _token in range(TOKENS):
            started = time.perf_counter()
            decoder.decode([100], cache)
            seconds.append(time.perf_counter() - started)
        cache.forget(TOKENS)
        rates.append(decoder.weight_bytes() / statistics.median(seconds))
        shares.append(rates[-1] / given)
    rate, share = statistics.median(rates), statistics.median(shares)
    print(
        f"{variant}: decode reads {rate / 1e9:.1f} GB/s of {decoder.weight_bytes() / 1e9:.2f} GB of weights, {share:.0%} "
        f"({min(shares):.0%} to {max(shares):.0%}) of the memory's rate just before",
        flush=True,
    )


def calibrate(folder: Path, algorithm: str, layers: int, tokens: int, kills: int) -> None:
    """Quantize with an algorithm, and once more with kills."""
    settings = ["quantization.algorithm", algorithm, "quantization.calibration_tokens", str(tokens)]
    with tempfile.TemporaryDirectory(dir=folder.parent) as cache:
        made = quantizing.quantized(folder, Path(cache), settings)
    line = (
        f"{algorithm}: {made.seconds:.0f} s, {made.of_processor:.0f} s of a core, peak memory {made.peak / 1e9:.2f} GB"
    )
    if made.blocks:
        line += f"; blocks after the first: {', '.join(f'{seconds:.0f}' for seconds in made.blocks)} s"
    if layers < CONFIG["num_layers"]:
        line += (
            f"; {CONFIG['num_layers']} blocks at this pace: {made.foretold(layers, CONFIG['num_layers']) / 60:.0f} min"
        )
    print(line, flush=True)
    if kills:
        with tempfile.TemporaryDirectory(dir=folder.parent) as cache:
            again = quantizing.killed(folder, Path(cache), settings, kills, 2 * made.seconds / layers, seed=kills)
        same = again.digests == made.digests
        print(f"  after {kills} kills: {'the same bytes' if same else 'OTHER BYTES'}", flush=True)


def plain_rate(folder: Path) -> float:
    """Bytes per second of reading 4 GB in order, around the system's cache where that can be."""
    size, buffer, seconds, total = 8 << 20, mmap.mmap(-1, 8 << 20), 0.0, 0
    for file in sorted(folder.glob("*.safetensors"))[:3]:
        descriptor = os.open(file, os.O_RDONLY | getattr(os, "O_DIRECT", 0))
        started = time.perf_counter()
        for at in range(0, file.stat().st_size - size, size):
            total += os.preadv(descriptor, [buffer], at)
        seconds += time.perf_counter() - started
        os.close(descriptor)
    return total / seconds


def asked(folder: Path, limit: float) -> list[list[int]]:
    """Ask FP32, and INT4 where nothing limits the memory; the tokens of FP32's answers."""
    with tempfile.TemporaryDirectory() as place:
        questions, out = Path(place) / "four.yaml", Path(place) / "run"
        listed = "".join(f"  - {{id: {word}, text: {word}}}\n" for word in ("one", "two", "three", "four"))
        questions.write_text(f"name: four\nquestions:\n{listed}", "utf-8")
        variants = "fp32" if limit else "fp32,int4"
        command = ["itrex_chat.ask", "--model", str(folder), "--prompts", str(questions), "--variants", variants]
        command += ["--max-new-tokens", "12", "--out", str(out), "--set", "generation.draft", "none"]
        command += ["--set", "fp32.memory", str(limit)]
        code, seconds, _peak, error = timed(command)
        print(f"ask {variants}, {f'{limit:g} GB' if limit else 'all memory'}: exit {code}, {seconds:.0f} s", flush=True)
        if code:
            sys.exit(error)
        [model] = json.loads((out / "run.json").read_text("utf-8"))["models"].values()
        answers = [json.loads(line) for line in (out / "answers.jsonl").read_text("utf-8").splitlines()]
        for name, facts in model["variants"].items():
            load, own = facts["load"], [answer for answer in answers if answer["variant"] == name]
            line = f"  {name}: loaded in {load['seconds']:.1f} s, peak memory {facts['peak_memory'] / 1e9:.2f} GB"
            line += f", of it weights in files {load.get('mapped_bytes', 0) / 1e9:.2f} GB"
            took = sum(answer["seconds"] for answer in own)
            if load.get("streamed_bytes"):
                line += f"; {load['streamed_bytes'] / 1e9:.2f} GB a pass from disk"
                line += f", foretold at {load['stream_rate'] / 1e9:.2f} GB/s; answers took {took:.1f} s"
            else:
                rate = statistics.median(load["weight_bytes"] / answer["tpot"] for answer in own)
                line += f"; decode reads {rate / 1e9:.1f} GB/s"
            print(line, flush=True)
        return [answer["token_ids"] for answer in sorted(answers, key=lambda a: a["id"]) if answer["variant"] == "fp32"]


if __name__ == "__main__":
    main()
