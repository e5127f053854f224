"""Make a bundle: collect, compile, archive."""

import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from shared.bundle.archive import Bundle, File, write
from shared.bundle.compiling import CompileError, compile_all
from shared.bundle.contents import ROOT, BundleError, Item, ready

Progress = Callable[[int, int], None]
"""Called with what is done, and of how much."""


def make(path: Path, items: Sequence[Item], progress: Progress = lambda done, total: None) -> Bundle:
    """Write the archive of `items` to `path`. Takes some seconds. Raises BundleError, OSError."""
    sources = {item.path: item.source for item in items if item.path.endswith(".py")}
    total = len(sources) + len(items)
    done = 0

    def step(_name: str = "") -> None:
        nonlocal done
        done += 1
        progress(done, total)

    with tempfile.TemporaryDirectory(prefix="gantry-bundle-") as scratch:
        try:
            compiled = compile_all(sources, Path(scratch), step)
        except CompileError as error:
            raise BundleError(str(error)) from error

    def files() -> Iterator[File]:
        for item in items:
            name, data = ready(item, compiled)
            yield File(name, data, item.executable)
            step()

    return write(path, ROOT, files())
