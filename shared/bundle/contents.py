"""What goes into a bundle: every file of it, by its place in the archive.

From a program that is installed: the interpreter and its standard library, the distributions that Gantry requires (as
their metadata says) and our packages. From an unpacked bundle: what it consists of, unchanged.
"""

import ast
import json
import platform
import re
import sys
import sysconfig
from collections.abc import Iterator
from dataclasses import dataclass
from fnmatch import fnmatch
from importlib.metadata import Distribution, PackageNotFoundError, distribution, distributions
from importlib.util import find_spec
from pathlib import Path
from typing import Final

from shared.bundle import elf, libraries
from shared.bundle.launchers import LAUNCHERS, script

ROOT: Final = "gantry"
MARK: Final = "bundle.json"
OURS: Final = ("gantry", "scheduler", "executor", "shared", "local")

_NOT_STDLIB: Final = (
    "__pycache__", "config-*", "site-packages", "dist-packages", "test", "tests", "idlelib", "tkinter", "turtledemo",
    "turtle.py", "lib2to3", "ensurepip", "pydoc_data", "distutils", "_sysconfigdata*", "sitecustomize.py",
)  # fmt: skip
_NOT_DYNLOAD: Final = (
    "_test*", "_ctypes_test*", "_xxtest*", "xxlimited*", "_tkinter*", "_curses*", "readline*", "_dbm*", "_gdbm*",
    "nis.*", "ossaudiodev*", "_crypt*",
)  # fmt: skip
_NOT_PACKAGE: Final = ("*.pyi", "*.pyx", "*.pxd", "*.c", "*.h", "*.hash", "py.typed", "*.pyc")
_NOT_FOLDER: Final = ("__pycache__", "tests", "test", "testing")
_METADATA: Final = re.compile(
    r"(METADATA|entry_points\.txt|LICEN[CS]E.*|NOTICE.*|COPYING.*|AUTHORS.*)", re.IGNORECASE
)


_OPTIONAL: Final = r"""extra == ["']sasl["']"""
"""An extra of Gantry that goes along where it is installed."""


class BundleError(Exception):
    """No bundle can be made of this program; one line that says why and what to do."""


@dataclass(frozen=True)
class Item:
    """A file of the archive, `path` below its top directory. `source`: where it comes from, or what is in it."""

    path: str
    source: Path | bytes
    executable: bool = False

    def read(self) -> bytes:
        return self.source if isinstance(self.source, bytes) else self.source.read_bytes()


def home() -> Path | None:
    """The unpacked bundle that this program runs from, if it does."""
    root = Path(sys.executable).parent.parent
    return root if sys.executable and (root / MARK).is_file() else None


def contents(version: str) -> list[Item]:
    """Sorted by path. `version`: of Gantry. Raises BundleError, OSError."""
    if root := home():
        return sorted(_unpacked(root), key=lambda item: item.path)
    try:
        found = {item.path: item for item in _installed(version)}
    except libraries.LibraryError as error:
        raise BundleError(f"{error}; or give --executor-command with a program that agents have") from error
    return [found[path] for path in sorted(found)]


def _unpacked(root: Path) -> Iterator[Item]:
    for name in json.loads((root / MARK).read_text())["files"]:
        yield Item(name, root / name, executable=bool((root / name).stat().st_mode & 0o100))
    yield Item(MARK, root / MARK)


def _installed(version: str) -> Iterator[Item]:
    program = Path(sys.executable).resolve()
    library = f"{sys.platlibdir}/python{sys.version_info.major}.{sys.version_info.minor}"
    items: dict[str, Item] = {}
    for item in (*_stdlib(library), *_dependencies(library), *_own(library)):
        if items.setdefault(item.path, item) is not item:
            raise BundleError(
                f"{item.path} is in two packages; make the bundle from a clean virtual environment"
            )
    _check_imports(library, items)
    loader = libraries.loader_of(program)
    libraries.check(loader)
    objects = [one.source for one in items.values() if isinstance(one.source, Path) and ".so" in one.path]
    for name, path in libraries.closure(loader, program, objects).items():
        items[f"lib/{name}"] = Item(f"lib/{name}", path, executable=True)
    items["lib/python"] = Item("lib/python", program, executable=True)
    items[f"lib/{loader.name}"] = Item(f"lib/{loader.name}", loader, executable=True)
    for name in LAUNCHERS:
        items[f"bin/{name}"] = Item(f"bin/{name}", script(name, loader.name).encode(), executable=True)
    files = sorted(packed(path) for path in items)
    facts = {
        "gantry": version,
        "python": platform.python_version(),
        "machine": platform.machine(),
        "files": files,
    }
    yield from items.values()
    yield Item(MARK, (json.dumps(facts, indent=1) + "\n").encode())


def packed(path: str) -> str:
    """Under which name a file is archived: sources are compiled."""
    return path + "c" if path.endswith(".py") else path


def _stdlib(library: str) -> Iterator[Item]:
    top = Path(sysconfig.get_path("stdlib"))
    for path in _walk(top, _NOT_STDLIB):
        name = path.relative_to(top)
        if path.suffix in {".py", ".so"} and not _named(path.name, _NOT_DYNLOAD):
            yield Item(f"{library}/{name}", path)
    # The values of the build, which only compilers want; the module has to be there for `site` and `sysconfig`.
    data = sysconfig._get_sysconfigdata_name()  # type: ignore[attr-defined]
    yield Item(f"{library}/{data}.py", b"build_time_vars = {}\n")


def _own(library: str) -> Iterator[Item]:
    for package in OURS:
        spec = find_spec(package)
        if spec is None or not spec.submodule_search_locations:
            raise BundleError(f"package {package} of Gantry is not installed")
        top = Path(spec.submodule_search_locations[0])
        for path in _walk(top, _NOT_FOLDER):
            if not _named(path.name, _NOT_PACKAGE):
                yield Item(f"{library}/{package}/{path.relative_to(top)}", path)


def _check_imports(library: str, items: dict[str, Item]) -> None:
    """An installation that is older than its sources lacks what they have come to need: better now than on an agent."""
    there = {Path(path).relative_to(library).parts[0].partition(".")[0] for path in items}
    there |= sys.stdlib_module_names
    for item in items.values():
        parts = Path(item.path).relative_to(library).parts
        if parts[0] not in OURS or not item.path.endswith(".py"):
            continue
        for statement in ast.parse(item.read()).body:
            match statement:
                case ast.Import(names):
                    wanted = {one.name for one in names}
                case ast.ImportFrom(module=str(module), level=0):
                    wanted = {module}
                case _:
                    continue
            if missing := {name.partition(".")[0] for name in wanted} - there:
                raise BundleError(
                    f"{'/'.join(parts)} needs {missing.pop()}, which is not installed as a requirement of Gantry; "
                    "install Gantry anew (pip install -e .)"
                )


def _dependencies(library: str) -> Iterator[Item]:
    for found in _distributions():
        if found.files is None:
            raise BundleError(f"package {found.name} was not installed by pip: use a virtual environment")
        for file in found.files:
            if file.is_absolute() or ".." in file.parts or _named(file.name, _NOT_PACKAGE):
                continue
            metadata = file.parts[0].endswith((".dist-info", ".egg-info"))
            if _METADATA.fullmatch(file.name) if metadata else not set(_NOT_FOLDER) & set(file.parts[:-1]):
                yield Item(f"{library}/{file}", Path(str(found.locate_file(file))))


def _distributions() -> list[Distribution]:
    """What Gantry requires, and what that requires, in the order of their names."""
    found: dict[str, Distribution] = {}
    # A source tree beside the installation may have metadata of its own, and either may be older.
    wanted = [_requirement(line) for own in distributions(name="gantry") for line in own.requires or ()]
    wanted = [(name, re.sub(_OPTIONAL, "if it is there", marker)) for name, marker in wanted]
    while wanted:
        name, marker = wanted.pop()
        key = re.sub(r"[-_.]+", "-", name).lower()
        if key in found or "extra ==" in marker:
            continue
        try:
            found[key] = distribution(name)
        except PackageNotFoundError as error:
            if marker:  # of another Python or system; were it one of ours, it would be installed
                continue
            raise BundleError(f"package {name} is not installed; set up Gantry anew") from error
        wanted += [_requirement(line) for line in found[key].requires or ()]
    return [found[key] for key in sorted(found)]


def _requirement(line: str) -> tuple[str, str]:
    """`name[extra]>=1 ; marker` to (name, marker)."""
    requirement, _, marker = line.partition(";")
    match = re.match(r"\s*([A-Za-z0-9._-]+)", requirement)
    if match is None:
        raise BundleError(f"not a requirement: {line}")
    return match[1], marker.strip()


def _walk(top: Path, without: tuple[str, ...]) -> Iterator[Path]:
    for path in sorted(top.iterdir()):
        if _named(path.name, without):
            continue
        if path.is_dir():
            yield from _walk(path, without)
        elif path.is_file():
            yield path


def _named(name: str, patterns: tuple[str, ...]) -> bool:
    return any(fnmatch(name, pattern) for pattern in patterns)


def ready(item: Item, compiled: dict[str, bytes]) -> tuple[str, bytes]:
    """Name and bytes as they are archived. Raises BundleError, OSError."""
    if item.path in compiled:
        return packed(item.path), compiled[item.path]
    data = item.read()
    if elf.is_elf(data) and home() is None:
        try:
            data = elf.loaded(data)
        except elf.ElfError as error:
            raise BundleError(f"{item.source!s}: {error}") from error
    return item.path, data
