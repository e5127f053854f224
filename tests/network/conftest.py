"""Fixtures of the tests of networks."""

import os
import shutil
import subprocess
from collections.abc import Callable, Iterator

import pytest

from executor.network.taps import TUN
from tests.ground import skip_root_tests

_CODE = "import signal, ctypes; ctypes.CDLL(None).prctl(1, 9); print(flush=True); signal.pause()"


def _why_not() -> str:
    if os.geteuid() != 0:
        return "needs root"
    if not os.path.exists(TUN):
        return f"needs {TUN}"
    return "" if shutil.which("ip") else "needs iproute2"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    skip_root_tests(items, "network", _why_not())


@pytest.fixture
def namespace() -> Iterator[int]:
    """A process with a network namespace of its own, which ends with this one."""
    with subprocess.Popen(["unshare", "-n", "python3", "-c", _CODE], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        yield process.pid
        process.kill()


@pytest.fixture
def ip(namespace: int) -> Callable[..., None]:
    """`ip("link", "add", …)` in that namespace."""

    def run(*words: str) -> None:
        subprocess.run(["nsenter", "-t", str(namespace), "-n", "ip", *words], check=True)

    return run
