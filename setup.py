"""The native kernels: C sources, built where there is a compiler. All else is in setup.cfg."""

from glob import glob

from setuptools import Extension, setup

ARGUMENTS = ["-O3", "-pthread", "-fvisibility=hidden", "-std=gnu11", "-g0"]

setup(
    ext_modules=[
        Extension(
            "itrex_chat.native._kernels",
            sorted(glob("itrex_chat/native/*.c")),
            depends=glob("itrex_chat/native/*.h"),
            extra_compile_args=ARGUMENTS,
            extra_link_args=["-pthread"],
            libraries=["m"],
            optional=True,
        )
    ]
)
