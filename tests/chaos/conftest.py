"""The harness's modules, as the package `harness` that its command line knows, too."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))


@pytest.fixture(scope="session")
def can_run() -> None:
    from harness.machine import missing

    if why := missing():
        pytest.skip(why)
