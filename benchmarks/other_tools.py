"""Load an artifact in an independent tool, transformers with auto-round, and compare its answers with ours.

    python benchmarks/other_tools.py [--model smollm2-135m] [QUESTION …]

The tool lives in an environment of its own, made once in the cache. Printed for each question: whether prompt ids and 32
greedy tokens are equal, and how far the logits of the prompt's last token are apart (root mean square, relative to their
spread), beside what the rounding of activations to INT8 alone changes here. The tool computes with INT8 activations.
"""

import argparse
import json
import subprocess
import sys
import venv
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

    from itrex_chat.settings.recipe import Recipe

QUESTIONS = [
    "What is the capital of France?",
    "Write a haiku about rain.",
    "Give me three names for a cat.",
    "1 + 1 = ?",
    "Say hello in one sentence.",
]
PACKAGES = ["torch==2.13.0", "transformers==5.23.0", "auto-round==0.16.1", "auto-round-lib==0.16.0"]
TOKENS = 32
THEIRS = """
import json, sys, torch
from transformers import AutoModelForCausalLM, AutoTokenizer
folder, questions, tokens = sys.argv[1], json.loads(sys.argv[2]), int(sys.argv[3])
model, tokenizer = AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
found = []
for question in questions:
    ids = tokenizer.apply_chat_template([{"role": "user", "content": question}], add_generation_prompt=True,
                                        return_tensors="pt", return_dict=True)["input_ids"]
    with torch.no_grad():
        logits = model(ids).logits[0, -1].float().tolist()
        answer = model.generate(ids, max_new_tokens=tokens, do_sample=False, repetition_penalty=1.0)[0, ids.shape[1]:]
    found.append({"ids": ids[0].tolist(), "tokens": answer.tolist(), "logits": logits})
print("RESULT" + json.dumps({"head": type(model.lm_head).__name__, "layer": type(model.model.layers[0].self_attn.q_proj).__name__,
                             "answers": found}))
"""


def environment(folder: Path) -> Path:
    """The interpreter of the tool's environment, made if it is not there."""
    python, done = folder / "bin" / "python", folder / ".done"
    if not done.exists():
        print(f"making {folder}", flush=True)
        venv.create(folder, clear=True, with_pip=True)
        for package in (PACKAGES[:1], PACKAGES):  # torch first: others would ask for another build of it
            subprocess.run([python, "-m", "pip", "install", "--quiet", *package], check=True)
        done.touch()
    return python


def ours(recipe: "Recipe", compute_dtype: str, prompts: list[list[int]]) -> list[tuple[list[int], "torch.Tensor"]]:
    import dataclasses

    from itrex_chat.generation.loop import generate, prefill
    from itrex_chat.generation.response import Response
    from itrex_chat.neuralchat.chatbot import load_chatbot
    from itrex_chat.settings.generation import GenerationConfig

    recipe = dataclasses.replace(
        recipe, quantization=dataclasses.replace(recipe.quantization, compute_dtype=compute_dtype)
    )
    chatbot = load_chatbot(recipe, f"int{recipe.quantization.bits}")
    found = []
    for ids in prompts:
        *_pieces, response = generate(
            chatbot.decoder, chatbot.session.tokenizer, ids, GenerationConfig(max_new_tokens=TOKENS)
        )
        assert isinstance(response, Response)  # the last of what it yields
        found.append((response.token_ids, prefill(chatbot.decoder, ids, chatbot.decoder.new_cache(len(ids)))))
    return found


def main() -> None:
    import torch

    from itrex_chat.artifacts import obtain
    from itrex_chat.chat import load_tokenizer
    from itrex_chat.chat.messages import Message
    from itrex_chat.foundation.places import cache_home
    from itrex_chat.settings import recipe as recipes

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default=recipes.EMBEDDED)
    parser.add_argument("questions", nargs="*", default=QUESTIONS)
    arguments = parser.parse_args()
    recipe = recipes.load(arguments.model)
    artifact = obtain(recipe).artifact
    python = environment(cache_home() / "environments" / "auto-round")
    run = subprocess.run(
        [python, "-c", THEIRS, artifact.folder, json.dumps(arguments.questions), str(TOKENS)],
        capture_output=True,
        text=True,
    )
    line = next((line for line in run.stdout.splitlines() if line.startswith("RESULT")), None)
    if line is None:
        sys.exit(run.stderr[-3000:])
    theirs = json.loads(line.removeprefix("RESULT"))
    print(f"their layers: {theirs['layer']}, head {theirs['head']}")

    tokenizer = load_tokenizer(artifact.folder, artifact.family, recipe.chat)
    prompts = [answer["ids"] for answer in theirs["answers"]]
    int8, fp32 = ours(recipe, "int8", prompts), ours(recipe, "fp32", prompts)
    for question, answer, (tokens, logits), (_tokens, exact) in zip(arguments.questions, theirs["answers"], int8, fp32):
        expected = [token for token in answer["tokens"] if token not in tokenizer.stop_ids]
        equal = next((i for i, (a, b) in enumerate(zip(tokens, expected)) if a != b), min(len(tokens), len(expected)))
        reference, spread = torch.tensor(answer["logits"]), exact.std()
        same_prompt = tokenizer.prompt([Message("user", question)]) == answer["ids"]
        print(
            f"{question}: prompt {'equal' if same_prompt else 'DIFFERS'}; {equal} of {len(expected)} tokens equal; "
            f"logits apart {(logits - reference).square().mean().sqrt() / spread:.4f} from ours with INT8 activations, "
            f"{(exact - reference).square().mean().sqrt() / spread:.4f} from ours with FP32 ones; INT8 activations alone "
            f"change ours by {(logits - exact).square().mean().sqrt() / spread:.4f}"
        )


if __name__ == "__main__":
    main()
