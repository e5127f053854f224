"""Adds the one requirement that setup.cfg cannot express: a path inside this source tree.

pymesos requires `http-parser`, whose C code compiles on no CPython that Gantry supports. The drop-in of the
same name lies in third_party/http-parser; a direct reference makes pip take it before the registry's package.
"""

from configparser import ConfigParser
from pathlib import Path

from setuptools import setup

HERE = Path(__file__).resolve().parent
DROP_IN = HERE / "third_party" / "http-parser"


def requirements() -> list[str]:
    config = ConfigParser()
    config.read(HERE / "setup.cfg", encoding="utf-8")
    listed = [line for line in config["gantry"]["requires"].splitlines() if line.strip()]
    return listed + ([f"http-parser @ {DROP_IN.as_uri()}"] if DROP_IN.is_dir() else ["http-parser"])


setup(install_requires=requirements())
