"""OpenVINO GenAI's LLMPipeline with its defaults, except that no prompt is remembered from one answer to the next.

    python -m peers.openvino_genai convert SOURCE TARGET

writes its INT4 format (symmetric, groups of 32, all matrices) from a folder that transformers reads.
"""

import subprocess
import sys
from pathlib import Path

from measuring.worker import Answer, serve


def load():
    from importlib.metadata import version

    import numpy as np
    import openvino
    import openvino_genai as genai

    class Engine:
        def __init__(self, model, threads, context):
            scheduler = genai.SchedulerConfig()
            scheduler.enable_prefix_caching = False
            scheduler.max_num_batched_tokens = max(context, 256)
            self._pipeline = genai.LLMPipeline(model, "CPU", scheduler_config=scheduler, INFERENCE_NUM_THREADS=threads)

        def generate(self, ids, count):
            config = genai.GenerationConfig(max_new_tokens=count, ignore_eos=True, do_sample=False)
            prompt = np.array([ids], dtype=np.int64)
            inputs = genai.TokenizedInputs(openvino.Tensor(prompt), openvino.Tensor(np.ones_like(prompt)))
            result = self._pipeline.generate(inputs, config)
            metrics = result.perf_metrics
            return Answer(
                list(result.tokens[0]),
                metrics.get_ttft().mean / 1e3,
                metrics.get_tpot().mean / 1e3 if count > 1 else None,
            )

        def about(self):
            return {"versions": {name: version(name) for name in ("openvino", "openvino-genai")}}

    return Engine


def convert(source: str, target: str) -> None:
    tool = Path(sys.executable).with_name("optimum-cli")
    sys.exit(
        subprocess.run(
            [
                tool,
                "export",
                "openvino",
                "--model",
                source,
                "--task",
                "text-generation-with-past",
                "--weight-format",
                "int4",
                "--sym",
                "--group-size",
                "32",
                "--ratio",
                "1.0",
                target,
            ]
        ).returncode
    )


if __name__ == "__main__":
    if sys.argv[1:2] == ["convert"]:
        convert(*sys.argv[2:])
    else:
        serve(load)
