"""Run by the interpreter of an environment: whether ITREX works there, as one line of JSON.

Needs nothing of this package and no newer Python than ITREX has.
"""

import json
import os
import platform
import sys


def probe():
    """The versions, after ITREX's kernels have multiplied with a matrix of 4 bits."""
    from importlib.metadata import version

    import torch
    from intel_extension_for_transformers import qbits

    weights = torch.eye(64)
    packed = qbits.quantize_to_packed_weight(weights, True, 32, "int8", "int4_clip", "fp32", False)
    product = torch.zeros(2, 64)
    qbits.woq_linear(torch.ones(2, 64), packed, torch.empty(0), product, "int8", "int4_clip", "fp32", False)
    if not torch.allclose(product, torch.ones(2, 64), atol=0.02):
        raise RuntimeError("its kernels compute wrong results on this processor")
    import neural_speed  # noqa: F401  asked for by every answer
    from intel_extension_for_transformers.neural_chat import PipelineConfig, build_chatbot  # noqa: F401  as it is

    names = ("intel-extension-for-transformers", "torch", "transformers", "tokenizers", "neural-speed")
    return {"versions": {name: version(name) for name in names}, "python": platform.python_version()}


if __name__ == "__main__":
    sys.path.pop(0)  # this folder
    answer = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # what the packages print is not the answer
    try:
        found = probe()
    except BaseException as error:  # some of them exit
        found = {"problem": "{}: {}".format(type(error).__name__, " ".join(str(error).split())[:300])}
    print(json.dumps(found), file=answer, flush=True)
    os._exit(0)  # some of its libraries crash while they are unloaded
