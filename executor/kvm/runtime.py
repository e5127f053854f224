"""The Python that runs in the machine: the host's interpreter, its libraries, and the few modules that stage1 imports.

Compiled, without sources: an emulated machine has no time to look for them. Which modules there are is found by
importing the guest's program here, in a fresh interpreter.
"""

import importlib.util
import json
import marshal
import subprocess
import sys
from pathlib import Path
from typing import Final

from executor.kvm.cpio import Archive
from shared.bundle import elf, libraries
from shared.bundle.contents import home

PROGRAM: Final = "usr/bin/python3"
LIBRARY: Final = f"usr/lib/python{sys.version_info.major}.{sys.version_info.minor}"
_ROOT: Final = str(Path(__file__).resolve().parents[2])
_ENTRY: Final = "executor.kvm.guest.main"
# Imported when they are needed: by functions, and by open(encoding=…).
_LATE: Final = (
    "fcntl",
    "tty",
    "encodings.ascii",
    "encodings.latin_1",
    "encodings.utf_8",
    "executor.kvm.guest.datagrams",
    "executor.kvm.guest.growth",
    "executor.kvm.guest.network",
    "executor.kvm.guest.ports",
)
_LIST: Final = """
import sys; sys.path.insert(0, {root!r})
import importlib, importlib.machinery, json
for name in {names!r}:
    importlib.import_module(name)
specs = {{name: getattr(module, "__spec__", None) for name, module in sys.modules.items()}}
for name, spec in specs.items():  # collections.abc of 3.13 puts another module in its place
    parent = sys.modules.get(name.rpartition(".")[0])
    if spec is not None and spec.name != name and hasattr(parent, "__path__"):
        specs[name] = importlib.machinery.PathFinder.find_spec(name, parent.__path__)
json.dump([(name, spec.origin, bool(spec.submodule_search_locations))
           for name, spec in specs.items() if spec is not None and spec.has_location], sys.stdout)
"""


class RuntimeFailure(Exception):
    """No Python for machines can be made of this one; one line."""


def add(archive: Archive) -> None:
    """Put it into the first root. Raises RuntimeFailure, OSError."""
    found = _modules()
    objects = []
    for name, origin, package in found:
        path = Path(origin)
        if path.suffix == ".so":
            objects.append(path)
            archive.file(f"{LIBRARY}/lib-dynload/{path.name}", _mapped(path), executable=True)
        else:
            place = name.replace(".", "/") + ("/__init__" if package else "")
            archive.file(f"{LIBRARY}/{place}.pyc", _compiled(path))
    if not any(name == "os" for name, _, _ in found):  # frozen, but by this file Python finds its library
        archive.file(f"{LIBRARY}/os.pyc", _compiled_text("", "os.py"))
    archive.directory(f"{LIBRARY}/lib-dynload")
    for place, path in _programs(objects).items():
        archive.file(place, _mapped(path), executable=True)


def _mapped(path: Path) -> bytes:
    """A program or library without what is never loaded: it would lie in the machine's memory."""
    data = path.read_bytes()
    try:
        return elf.loaded(data)
    except elf.ElfError as error:
        raise RuntimeFailure(f"{path}: {error}") from None


def _modules() -> list[tuple[str, str, bool]]:
    code = _LIST.format(root=_ROOT, names=[_ENTRY, *_LATE])
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", code], capture_output=True, text=True, check=False
    )
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
        raise RuntimeFailure(f"{sys.executable} cannot import {_ENTRY}: {last}")
    return [(str(name), str(origin), bool(package)) for name, origin, package in json.loads(done.stdout)]


def _compiled(path: Path) -> bytes:
    return path.read_bytes() if path.suffix == ".pyc" else _compiled_text(path.read_text("utf-8"), path.name)


def _compiled_text(text: str, name: str) -> bytes:
    """As in a .pyc: the magic number, twelve bytes that nobody checks where there is no source, the code (PEP 552)."""
    code = compile(text, name, "exec", dont_inherit=True)
    return importlib.util.MAGIC_NUMBER + bytes(12) + marshal.dumps(code)


def _programs(objects: list[Path]) -> dict[str, Path]:
    """The interpreter, the dynamic loader where the interpreter wants it, and the libraries, in /lib."""
    bundle = home()
    try:
        if bundle is not None:
            program = bundle / "lib" / "python"
            loader = libraries.loader_of(program)
            found = _beside([program, *objects], bundle / "lib")
            at = bundle / "lib" / loader.name
        else:
            program = Path(sys.executable).resolve()
            loader = at = libraries.loader_of(program)
            found = libraries.closure(loader, program, objects)
    except libraries.LibraryError as error:
        raise RuntimeFailure(str(error)) from None
    places = {f"lib/{name}": path for name, path in found.items() if name != loader.name}
    return {**places, PROGRAM: program, str(loader).lstrip("/"): at}


def _beside(files: list[Path], directory: Path) -> dict[str, Path]:
    """What files of a bundle need is in one directory of it."""
    found: dict[str, Path] = {}
    todo = [*files, *(directory / name for name in libraries.BY_NAME)]
    found |= {name: directory / name for name in libraries.BY_NAME}
    while todo:
        for name in elf.read(todo.pop().read_bytes()).needed:
            if name not in found and (directory / name).exists():
                found[name] = directory / name
                todo.append(found[name])
    return found
