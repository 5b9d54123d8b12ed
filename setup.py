"""The native kernels: C sources, built where there is a compiler. All else is in setup.cfg."""

import runpy
from glob import glob
from pathlib import Path

from setuptools import Extension, setup

FOLDER = Path("itrex_chat/native")
SOURCES = runpy.run_path(str(FOLDER / "built_from.py"))["digest"](FOLDER)
ARGUMENTS = ["-O3", "-pthread", "-fvisibility=hidden", "-std=gnu11", "-g0"]

setup(
    ext_modules=[
        Extension(
            "itrex_chat.native._kernels",
            sorted(glob("itrex_chat/native/*.c")),
            depends=glob("itrex_chat/native/*.h"),
            define_macros=[("ITREX_SOURCES", f'"{SOURCES}"')],
            extra_compile_args=ARGUMENTS,
            extra_link_args=["-pthread"],
            libraries=["m"],
            optional=True,
        )
    ]
)
