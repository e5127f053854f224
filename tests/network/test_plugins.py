"""How plugins are run: what they get to see, how long they may take, how much they may say.

Real ones: test_attach.
"""

import json
import os
import signal
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from executor.network import plugins
from executor.network.errors import CniError
from executor.network.plugins import Call, PluginFailed, Stopper

Make = Callable[[str], str]
CALL = Call("ADD", "c", "/n", "eth0", "A=B", ("/one", "/two"))


@pytest.fixture
def make(tmp_path: Path) -> Make:
    """A plugin that is a script."""

    def made(script: str) -> str:
        path = tmp_path / "fake"
        path.write_text(f"#!/bin/sh\n{script}\n")
        path.chmod(0o755)
        return str(path)

    return made


def test_what_a_plugin_gets_to_see(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECRET", "x")
    out = plugins.run(
        make("env | sort; cat; echo; pwd; ls /proc/self/fd | wc -l"), CALL, '{"a": 1}', "1.0.0"
    ).decode()
    lines = out.splitlines()
    assert [line.partition("=")[0] for line in lines if "=" in line] == [
        "CNI_ARGS", "CNI_COMMAND", "CNI_CONTAINERID", "CNI_IFNAME", "CNI_NETNS", "CNI_PATH", "PATH", "PWD",
    ]  # fmt: skip
    assert "CNI_PATH=/one:/two" in lines
    assert "CNI_ARGS=IgnoreUnknown=1;A=B" in lines
    assert lines[-3:] == ['{"a": 1}', "/", "4"]  # its streams, and the directory that ls reads
    assert b"CNI_VERSION=0.1.0" in plugins.run(make("env"), CALL, "{}", "0.1.0")


def test_errors_in_their_own_words(make: Make) -> None:
    error = json.dumps({"code": 11, "msg": "no\tlink", "details": "eth9"})
    with pytest.raises(PluginFailed) as caught:
        plugins.run(make(f"printf %s '{error}'; exit 1"), CALL, "{}", "1.0.0")
    assert (str(caught.value), caught.value.code) == ("no link; eth9", 11)
    with pytest.raises(PluginFailed, match=r"^fake ADD: exit code 3: what a mess$"):
        plugins.run(make("echo what a mess >&2; exit 3"), CALL, "{}", "1.0.0")
    with pytest.raises(PluginFailed, match=r"^fake ADD: killed by signal 9$"):
        plugins.run(make("kill -9 $$"), CALL, "{}", "1.0.0")
    with pytest.raises(PluginFailed, match="No such file or directory"):
        plugins.run("/no/such/plugin", CALL, "{}", "1.0.0")


def test_one_that_takes_too_long_ends_with_all_it_has_started(make: Make, tmp_path: Path) -> None:
    held = tmp_path / "held"
    os.mkfifo(held)
    reader = os.open(held, os.O_RDONLY | os.O_NONBLOCK)
    with pytest.raises(CniError, match=r"^fake ADD: it has not answered after 0 s, and was killed$"):
        plugins.run(make(f"exec 9> {held}; sleep 1000 & wait"), CALL, "{}", "1.0.0", seconds=0.3)
    os.set_blocking(reader, True)
    assert os.read(reader, 1) == b""  # both ends of it are closed
    os.close(reader)


def test_one_that_says_too_much(make: Make) -> None:
    with pytest.raises(CniError, match="it says more than 1048576 bytes"):
        plugins.run(make("exec cat /dev/zero"), CALL, "{}", "1.0.0")


def test_what_it_leaves_running_is_not_waited_for(make: Make) -> None:
    out = plugins.run(make("sleep 1000 & echo $!"), CALL, "{}", "1.0.0")
    os.kill(int(out), signal.SIGKILL)


def test_it_can_be_stopped(make: Make) -> None:
    stopper = Stopper()
    threading.Timer(0.1, stopper.stop).start()
    for _ in range(2):  # and is from then on
        with pytest.raises(CniError, match="stopped"):
            plugins.run(make("sleep 100"), CALL, "{}", "1.0.0", stopper=stopper)
    stopper.close()


def test_where_it_is_found(make: Make, tmp_path: Path) -> None:
    path = make("true")
    assert plugins.find("fake", ["/nowhere", str(tmp_path)]) == path
    with pytest.raises(CniError, match=r'could not find plugin "nope" in /nowhere$'):
        plugins.find("nope", ["/nowhere"])
    with pytest.raises(CniError, match=r"in /nowhere: install containernetworking-plugins$"):
        plugins.find("ptp", ["/nowhere"])


def test_which_versions_it_knows(make: Make) -> None:
    said = '{"cniVersion": "1.0.0", "supportedVersions": ["0.1.0", "1.0.0"]}'
    assert plugins.versions(make(f"[ $CNI_COMMAND = VERSION ] && echo '{said}'"), []) == ["0.1.0", "1.0.0"]
    with pytest.raises(CniError, match="does not say which versions of CNI it knows"):
        plugins.versions(make("echo nonsense"), [])
