"""INT4 chatbots on Intel CPUs, and what quantization costs and gives.

from itrex_chat import build_chatbot, PipelineConfig, RtnConfig
chatbot = build_chatbot(PipelineConfig(model_name_or_path="chatglm3-6b",
                                       optimization_config=RtnConfig(bits=4, compute_dtype="int8",
                                                                     weight_dtype="int4_fullrange")))
print(chatbot.predict("你好"))
"""

import os
import sys
from importlib import import_module
from typing import TYPE_CHECKING

if getattr(sys, "argv", [])[:1] == ["-m"]:  # while Python looks for the command's module
    from itrex_chat.foundation.starting import watch

    watch()

__version__ = "0.1.0"

# OpenMP reads this when torch loads it: its threads that wait give the core back soon, to the kernels' or to other programs.
if not {"OMP_WAIT_POLICY", "GOMP_SPINCOUNT"} & os.environ.keys():
    os.environ["GOMP_SPINCOUNT"] = "1000"

_HOMES = {
    "build_chatbot": "itrex_chat.neuralchat.chatbot",
    "Chatbot": "itrex_chat.neuralchat.chatbot",
    "PipelineConfig": "itrex_chat.neuralchat.configs",
    "RtnConfig": "itrex_chat.neuralchat.weight_only",
    "GPTQConfig": "itrex_chat.neuralchat.weight_only",
    "AwqConfig": "itrex_chat.neuralchat.weight_only",
    "TeqConfig": "itrex_chat.neuralchat.weight_only",
    "AutoRoundConfig": "itrex_chat.neuralchat.weight_only",
    "MixedPrecisionConfig": "itrex_chat.neuralchat.configs",
    "GenerationConfig": "itrex_chat.neuralchat.configs",
    "ItrexChatError": "itrex_chat.foundation.errors",
}
__all__ = [*_HOMES, "__version__"]

if TYPE_CHECKING:
    from itrex_chat.foundation.errors import ItrexChatError as ItrexChatError
    from itrex_chat.neuralchat.chatbot import Chatbot as Chatbot
    from itrex_chat.neuralchat.chatbot import build_chatbot as build_chatbot
    from itrex_chat.neuralchat.configs import GenerationConfig as GenerationConfig
    from itrex_chat.neuralchat.configs import MixedPrecisionConfig as MixedPrecisionConfig
    from itrex_chat.neuralchat.configs import PipelineConfig as PipelineConfig
    from itrex_chat.neuralchat.weight_only import AutoRoundConfig as AutoRoundConfig
    from itrex_chat.neuralchat.weight_only import AwqConfig as AwqConfig
    from itrex_chat.neuralchat.weight_only import GPTQConfig as GPTQConfig
    from itrex_chat.neuralchat.weight_only import RtnConfig as RtnConfig
    from itrex_chat.neuralchat.weight_only import TeqConfig as TeqConfig
else:

    def __getattr__(name: str) -> object:
        """Import a public name when it is first used: a command that needs no torch starts without it."""
        if name not in _HOMES:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        return getattr(import_module(_HOMES[name]), name)
