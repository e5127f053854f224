"""Whatever fails shows the ends of the logs in its directories: nobody may be there to look when it fails once."""

import contextlib
import os
import stat
import time
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any

import pytest

NAMES = frozenset(("log", "output", "stderr", "stdout"))
OTHERS = frozenset(("images", "overlay", "rootfs", "store", "treestore", "upper", "volumes", "work"))
"""Directories of images and pods: what is in there are no logs of ours, and there is much of it."""

FILES, BYTES, SECONDS = 12, 1500, 3.0


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    if report.failed and (text := "\n".join(_ends(_directories(item)))):
        report.sections.append(("the ends of the logs, the newest last", text))
    return report


def _directories(item: pytest.Item) -> Iterator[Path]:
    """Of the fixtures: `tmp_path`, and what has a `directory`, as all clusters of processes have."""
    for name, value in sorted(getattr(item, "funcargs", {}).items()):
        found: Any = value if name == "tmp_path" else getattr(value, "directory", None)
        if isinstance(found, Path):
            yield found


def _ends(directories: Iterator[Path]) -> Iterator[str]:
    found: dict[Path, float] = {}
    deadline = time.monotonic() + SECONDS
    for directory in directories:
        for root, below, names in os.walk(directory):
            below[:] = () if time.monotonic() > deadline else sorted(set(below) - OTHERS)
            for path in (Path(root, name) for name in names if name in NAMES or name.endswith(".log")):
                with contextlib.suppress(OSError):  # whose processes run still
                    status = path.lstat()
                    if stat.S_ISREG(status.st_mode) and status.st_size:
                        found[path] = status.st_mtime
    for path in sorted(found, key=lambda one: found[one])[-FILES:]:
        with contextlib.suppress(OSError), path.open("rb") as file:
            file.seek(-min(BYTES, os.fstat(file.fileno()).st_size), os.SEEK_END)
            yield f"---- {path}\n{file.read(BYTES).decode(errors='replace')}"
