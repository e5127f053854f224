"""The bar for long work, and the command that has one."""

import io
import os
import pty
import re
import subprocess
import sys

from shared.progress import Bar, line


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_a_line_says_how_far_it_is():
    assert line("packing", 5, 10, "") == "packing [###############...............]  50%"
    assert line("packing", 10, 10, "") == f"packing [{'#' * 30}] 100%"
    assert line("reading", 12345, 0, " objects") == "reading 12,345 objects"


def test_a_terminal_sees_it_and_has_a_free_line_afterwards():
    terminal = Terminal()
    with Bar("packing", stream=terminal) as bar:
        for number in range(1, 101):
            bar(number, 100)
    drawn = terminal.getvalue().split("\r\x1b[K")
    assert drawn[0] == ""
    assert drawn[-1] == ""
    assert drawn[-2].endswith("100%")
    assert len(drawn) < 50  # not for every step


def test_nobody_else_sees_anything():
    log = io.StringIO()
    with Bar("packing", stream=log) as bar:
        bar(1, 1)
    assert log.getvalue() == ""


def test_a_backup_shows_it_on_a_terminal(tmp_path):
    ours, theirs = pty.openpty()
    code = "from scheduler.store.sqlite import *; import asyncio, sys; s = SqliteStore(Path(sys.argv[1]))\n"
    code += "async def main(): await s.open(); await s.lead(0); await s.close()\n"
    code += "asyncio.run(main())"
    subprocess.run([sys.executable, "-c", code, tmp_path / "s.db"], check=True)
    command = [
        sys.executable,
        "-m",
        "gantry",
        "restore",
        "--store",
        f"sqlite:{tmp_path}/t.db",
        str(tmp_path / "b"),
    ]
    backup = [
        sys.executable,
        "-m",
        "gantry",
        "backup",
        "--store",
        f"sqlite:{tmp_path}/s.db",
        str(tmp_path / "b"),
    ]
    subprocess.run(backup, check=True, capture_output=True)
    with os.fdopen(ours, "rb", buffering=0) as terminal:
        process = subprocess.Popen(command, stdout=theirs, stderr=theirs)
        os.close(theirs)
        seen = b""
        try:
            while data := terminal.read(1000):
                seen += data
        except OSError:
            pass  # the other side is closed
        assert process.wait() == 0
    assert re.search(rb"checking the backup \[#+\.*\]", seen)
    assert b" objects of " in seen
