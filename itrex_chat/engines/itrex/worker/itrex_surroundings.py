"""What the model's process and folder are like."""

import os
import resource


def peak_memory():
    try:
        with open("/proc/self/status", encoding="utf-8", errors="replace") as status:
            return next(int(line.split()[1]) * 1024 for line in status if line.startswith("VmHWM:"))
    except (OSError, StopIteration):
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


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
