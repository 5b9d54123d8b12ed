"""What keeping FP32's predictions compactly changes: the mean KL divergence from the whole distributions beside that from the kept ones.

    python benchmarks/compaction.py --model MODEL.gguf --text TEXT --tokens 1024

Holds the whole log-probabilities of both variants on disk (600 kB a token and variant) while it runs.
"""

import argparse
import tempfile
from pathlib import Path

import numpy as np
import torch

from itrex_chat.engines.on_disk import of_checkpoint
from itrex_chat.neuralchat.chatbot import load_chatbot
from itrex_chat.quality import distributions, scoring
from itrex_chat.quality.distributions import Compact
from itrex_chat.quality.passages import of_text
from itrex_chat.settings import recipe as recipes


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default=recipes.EMBEDDED)
    parser.add_argument("--text", type=Path, required=True)
    parser.add_argument("--tokens", type=int, default=1024)
    arguments = parser.parse_args()
    recipe = recipes.load(arguments.model)
    with tempfile.TemporaryDirectory() as folder:
        chatbot = load_chatbot(recipe, "fp32")
        tokenizer = of_checkpoint(recipe).tokenizer(recipe)
        passages = of_text("text", tokenizer.encode(arguments.text.read_text("utf-8"))[: arguments.tokens])
        kept = {}
        for passage in passages:
            for start, log_probs, targets in scoring.predictions(chatbot.decoder, passage):
                np.save(f"{folder}/{passage.name}-{start}.npy", log_probs.numpy())
                kept[passage.name, start] = [
                    distributions.compact(log_probs, targets, torch.Generator().manual_seed(seed)) for seed in range(3)
                ]
        del chatbot
        chatbot = load_chatbot(recipe, "int4")
        whole, lumped = [], []
        compact: list[list[distributions.Score]] = [[] for _seed in range(3)]
        for passage in passages:
            for start, q, targets in scoring.predictions(chatbot.decoder, passage):
                p = torch.from_numpy(np.load(f"{folder}/{passage.name}-{start}.npy")).double()
                whole.append((p.exp() * (p - q.double())).sum(-1))
                lumped.append(_lumped(kept[passage.name, start][0], q))
                for seed, reference in enumerate(kept[passage.name, start]):
                    compact[seed].append(distributions.score(reference, q, targets))
    exact = float(torch.cat(whole).mean())
    print(f"{sum(map(len, whole))} positions; mean KL divergence of the whole distributions {exact:.6f}")
    print(
        f"the likeliest {distributions.TOP} and one number for the rest: {100 * (float(torch.cat(lumped).mean()) / exact - 1):+.3f} %"
    )
    for seed, scores in enumerate(compact):
        kl = torch.cat([score.kl.double() for score in scores])
        stated = torch.cat([score.sampling_variance.double() for score in scores]).sum().sqrt() / len(kl)
        print(
            f"as it is kept, draw {seed}: {100 * (float(kl.mean()) / exact - 1):+.3f} %, stated standard error "
            f"{100 * float(stated) / exact:.3f} %"
        )


def _lumped(reference: Compact, q: torch.Tensor) -> torch.Tensor:
    """The divergence where the rest is one token."""
    p_top, q_top = reference.top_log.double(), q.gather(1, reference.top_ids.long()).double()
    p_rest = reference.rest_log.double()
    q_rest = (1 - q_top.exp().sum(-1)).clamp(min=1e-12).log()
    return (p_top.exp() * (p_top - q_top)).sum(-1) + p_rest.exp() * (p_rest - q_rest)


if __name__ == "__main__":
    main()
