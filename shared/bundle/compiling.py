"""Compile sources to bytecode, the same bytes each time.

What `marshal` writes depends on what else lives in the interpreter (which strings are shared) and on the order of
sets: so this runs in an interpreter of its own, in one order, with one hash seed. The files carry no time and no check
of a source (PEP 552), for there is none in a bundle.
"""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import IO, Final

_CODE: Final = r"""
import importlib.util, json, marshal, sys, warnings
warnings.simplefilter("ignore")
out = sys.stdout.buffer
for name, path in json.load(sys.stdin):
    with open(path, "rb") as file:
        source = file.read()
    try:
        code = compile(source, name, "exec", dont_inherit=True, optimize=0)
    except (SyntaxError, ValueError) as error:
        sys.exit(f"{path}: {error}")
    data = importlib.util.MAGIC_NUMBER + (1).to_bytes(4, "little") + bytes(8) + marshal.dumps(code)
    out.write(len(data).to_bytes(4, "little") + data)
    out.flush()
"""


class CompileError(Exception):
    """A source that is no Python of this version."""


def compile_all(
    sources: Mapping[str, Path | bytes], scratch: Path, said: Callable[[str], None]
) -> dict[str, bytes]:
    """The bytecode files of `sources`, by name (which tracebacks show). `said` is called with each name.

    `scratch`: a directory for sources that are not files. Raises CompileError, OSError.
    """
    jobs = []
    for number, (name, source) in enumerate(sources.items()):
        path = scratch / f"{number}.py" if isinstance(source, bytes) else source
        if isinstance(source, bytes):
            path.write_bytes(source)
        jobs.append((name, str(path)))
    (scratch / "jobs").write_text(json.dumps(jobs))
    command = [sys.executable, "-S", "-s", "-P", "-c", _CODE]
    environment = {"PYTHONHASHSEED": "0", "PATH": os.defpath}
    with (scratch / "jobs").open("rb") as given, (scratch / "errors").open("w+b") as errors:
        with subprocess.Popen(
            command, stdin=given, stdout=subprocess.PIPE, stderr=errors, env=environment
        ) as child:
            assert child.stdout is not None
            result = {}
            for name, _ in jobs:
                if (data := _take(child.stdout)) is None:
                    break
                result[name] = data
                said(name)
        if len(result) < len(jobs):
            errors.seek(0)
            text = errors.read().decode(errors="replace").strip().splitlines() or ["it ended"]
            raise CompileError(f"cannot be compiled: {text[-1]}")
    return result


def _take(stream: IO[bytes]) -> bytes | None:
    size = int.from_bytes(stream.read(4), "little")
    data = stream.read(size)
    return data if size and len(data) == size else None
