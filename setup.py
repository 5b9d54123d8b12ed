"""The native kernels: C sources, built where there is a compiler. All else is in setup.cfg."""

import sys
from glob import glob

from setuptools import Extension, setup

# -fopenmp compiles for OpenMP without linking a runtime: at run time torch's own is used (itrex_chat/native).
ARGUMENTS = ["-O3", "-fopenmp", "-fvisibility=hidden", "-std=gnu11", "-g0"]
LINK = ["-undefined", "dynamic_lookup"] if sys.platform == "darwin" else []

setup(
    ext_modules=[
        Extension(
            "itrex_chat.native._kernels",
            sorted(glob("itrex_chat/native/*.c")),
            depends=glob("itrex_chat/native/*.h"),
            extra_compile_args=ARGUMENTS,
            extra_link_args=LINK,
            libraries=["m"],
            optional=True,
        )
    ]
)
