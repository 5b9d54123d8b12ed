"""The rate of a download beside `hf download` and `modelscope download`, from a stand-in with latency and a limit for each connection.

    python benchmarks/download_rate.py [--megabytes 256] [--files 3] [--latency 0.02] [--limit 8] [--rounds 2]

Each program downloads the same model with its defaults; tools take turns. Times are those at the hub: from the first
question to the last byte, so that no program's start counts. `hf download` goes without Xet, which the stand-in does not have.
"""

import argparse
import os
import random
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from standin_hub import REPOSITORY, StandinHub, StandinServer  # noqa: E402

OURS = (
    "import sys; from pathlib import Path; from itrex_chat.sources import hubs; from itrex_chat.settings.recipe import SourceSpec; "
    "hubs.download(SourceSpec(hub=sys.argv[1], **{sys.argv[1]: sys.argv[2]}), Path(sys.argv[3]))"
)


def command(tool: str, folder: str) -> list[str]:
    return {
        "itrex_chat, ModelScope": ["-c", OURS, "modelscope", REPOSITORY, folder],
        "modelscope download": ["-m", "modelscope.cli.cli", "download", "--model", REPOSITORY, "--local_dir", folder],
        "itrex_chat, Hugging Face": ["-c", OURS, "huggingface", REPOSITORY, folder],
        "hf download": ["-m", "huggingface_hub.cli.hf", "download", REPOSITORY, "--local-dir", folder],
    }[tool]


TOOLS = ("itrex_chat, ModelScope", "modelscope download", "itrex_chat, Hugging Face", "hf download")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--megabytes", type=int, default=256)
    parser.add_argument("--files", type=int, default=3)
    parser.add_argument("--latency", type=float, default=0.02, help="seconds before each answer")
    parser.add_argument("--limit", type=float, default=8.0, help="megabytes a second of each connection")
    parser.add_argument("--rounds", type=int, default=2)
    chosen = parser.parse_args()
    size = chosen.megabytes * 1_000_000 // chosen.files
    model = {"config.json": b"{}", "tokenizer.json": random.Random(0).randbytes(2_000_000)}
    for number in range(1, chosen.files + 1):
        name = f"model-{number:05}-of-{chosen.files:05}.safetensors"
        model[name] = random.Random(number).randbytes(size)
    total, server = sum(map(len, model.values())), StandinServer()
    rates: dict[str, list[float]] = {tool: [] for tool in TOOLS}
    for _round in range(chosen.rounds):
        for tool in TOOLS:
            server.hub = hub = StandinHub(model, latency=chosen.latency, rate=chosen.limit * 1e6)
            with tempfile.TemporaryDirectory() as folder:
                environment = {name: value for name, value in os.environ.items() if not name.lower().endswith("_proxy")}
                environment |= {"HF_ENDPOINT": server.endpoint, "MODELSCOPE_ENDPOINT": server.endpoint, "HOME": folder}
                environment |= {"HF_HUB_DISABLE_XET": "1", "PYTHONPATH": str(ROOT)}
                subprocess.run(
                    [sys.executable, *command(tool, f"{folder}/to")], env=environment, capture_output=True, check=True
                )
            seconds = max(transfer.ended for transfer in hub.transfers) - hub.asked_at
            rates[tool].append(total / 1e6 / seconds)
            sent = sum(transfer.sent for transfer in hub.transfers)
            print(
                f"{tool:26} {seconds:6.1f} s  {rates[tool][-1]:6.1f} MB/s, {sent / total:.2f} times the bytes",
                flush=True,
            )
    for tool in TOOLS:
        print(f"{tool:26} {statistics.median(rates[tool]):6.1f} MB/s in the median of {chosen.rounds}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
