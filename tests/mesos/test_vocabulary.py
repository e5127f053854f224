"""Importing pymesos changes a process; importing ours must not."""

import subprocess
import sys


def run(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=30, check=False
    )


def test_the_import_leaves_signals_and_logging_alone() -> None:
    done = run(
        "import logging, signal\n"
        "before = signal.getsignal(signal.SIGINT)\n"
        "import shared.mesos.scheduler_driver\n"
        "assert signal.getsignal(signal.SIGINT) is before\n"
        "assert not logging.getLogger('pymesos').handlers\n"
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_the_import_in_another_thread_says_what_to_do() -> None:
    done = run(
        "import threading\n"
        "def work():\n"
        "    try: import shared.mesos.vocabulary\n"
        "    except ImportError as error: print(error)\n"
        "thread = threading.Thread(target=work); thread.start(); thread.join()\n"
    )
    assert "from the main thread" in done.stdout
