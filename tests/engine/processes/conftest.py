"""A cluster of processes for each test that asks for one."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.engine.processes.local import Local


@pytest.fixture
def local(tmp_path: Path) -> Iterator[Local]:
    made = Local(tmp_path)
    try:
        yield made
    except BaseException:
        made.stop()
        raise
    made.stop()
