"""Sockets that an app gets with its start, as from systemd (sd_listen_fds(3))."""

import asyncio
import os
import socket
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from executor.pods.launcher import Launcher, LaunchError
from executor.stage1 import syscall_lists

SERVER = """
import os, socket
assert int(os.environ["LISTEN_PID"]) == os.getpid(), os.environ["LISTEN_PID"]
names = os.environ["LISTEN_FDNAMES"].split(":")
assert int(os.environ["LISTEN_FDS"]) == len(names)
there = [fd for fd in map(int, os.listdir("/proc/self/fd")) if os.path.exists(f"/proc/self/fd/{fd}")]
assert sorted(there) == list(range(3 + len(names))), there
for number, name in enumerate(names):
    connection, _ = socket.socket(fileno=3 + number).accept()
    connection.sendall(f"{name} {os.getuid()}".encode())
    connection.close()
"""
pytestmark = pytest.mark.root


@pytest.fixture
def listening() -> Iterator[list[tuple[str, socket.socket]]]:
    """Three, with names."""
    made = [(name, socket.create_server(("127.0.0.1", 0))) for name in ("http", "admin", "more")]
    yield made
    for _, one in made:
        one.close()


@pytest.fixture
def server(runner: Any, tmp_path: Path) -> Any:
    """The directory of a pod whose app serves each of its sockets once. What of the host it needs is read-only."""
    layer = tmp_path / "layer"
    layer.mkdir()
    for name in ("lib", "lib64"):
        (layer / name).symlink_to(f"usr/{name}")
    places = sorted(
        one for one in {"/usr", os.path.realpath(sys.base_prefix)} if one == "/usr" or one[:5] != "/usr/"
    )
    volumes = [
        {"name": f"v{n}", "kind": "host", "source": one, "readOnly": True} for n, one in enumerate(places)
    ]
    mounts = [{"volume": one["name"], "path": one["source"]} for one in volumes]

    def make(flavor: str = "linux", notes: dict[str, str] | None = None, **app: Any) -> Path:
        command = [os.path.realpath(sys.executable), "-I", "-S", "-c", SERVER]
        entry = runner.pods.app(*command, mounts=mounts, **app)
        more = {"volumes": volumes, "layers": (layer,), **(notes or {})}
        made: Path = runner.pods.make(entry, flavor=flavor, **more)
        return made

    return make


async def serve(runner: Any, directory: Path, listening: list[tuple[str, socket.socket]]) -> list[str]:
    """What the app says to whoever connects; it has ended well then."""
    running = await runner.pod(directory)
    told = [(name, one.fileno()) for name, one in listening]
    await running.sandbox.start_app("app", stdin=None, stdout=2, stderr=2, sockets=told)
    heard = []
    for _, one in listening:
        reader, writer = await asyncio.open_connection(*one.getsockname())
        heard.append((await reader.read()).decode())
        writer.close()
    assert (await running.ended()).exit_code == 0
    return heard


@pytest.mark.parametrize(
    ("flavor", "notes", "app"),
    [
        ("linux", {}, {}),
        ("linux", {"user_namespace": "host"}, {"user": "1234"}),
        ("linux", {"processes": "own"}, {}),
        ("fly", {}, {"user": "1234"}),
        ("nspawn", {}, {}),
    ],
    ids=["linux", "without-users", "own-processes", "fly", "nspawn"],
)
async def test_an_app_serves_them(
    runner: Any, server: Any, listening: Any, flavor: str, notes: dict[str, str], app: dict[str, str]
) -> None:
    who = app.get("user", "0")
    heard = await serve(runner, server(flavor, notes, **app), listening)
    assert heard == [f"{name} {who}" for name in ("http", "admin", "more")]


async def test_a_filter_that_knows_nothing_of_it_lets_it_be(runner: Any, server: Any, listening: Any) -> None:
    calls = {*syscall_lists.DEFAULT, "clone", "socket"} - {"dup2", "dup3", "readlinkat"}
    allowed = {"names": sorted(calls), "action": "SCMP_ACT_ALLOW"}
    profile = {"defaultAction": "SCMP_ACT_ERRNO", "syscalls": [allowed]}
    isolators = [{"name": "gantry.io/seccomp-profile", "value": profile}]
    assert await serve(runner, server(isolators=isolators), listening[:2]) == ["http 0", "admin 0"]


async def test_a_filter_that_forbids_it_is_an_error(runner: Any, server: Any, listening: Any) -> None:
    isolators = [{"name": "os/linux/seccomp-remove-set", "value": {"set": ["readlinkat"], "errno": "EPERM"}}]
    with pytest.raises(LaunchError, match=r"forbids readlinkat: no sockets"):
        await serve(runner, server(isolators=isolators), listening)


async def test_what_cannot_be_executed_is_named_all_the_same(runner: Any, listening: Any) -> None:
    """Where the error is usually reported is a socket by then."""
    running = await runner.pod(runner.pods.make(runner.pods.app("/plain.txt")))
    told = [(name, one.fileno()) for name, one in listening]
    with pytest.raises(LaunchError, match=r"exec /plain\.txt: "):
        await running.sandbox.start_app("app", stdin=None, stdout=2, stderr=2, sockets=told)


async def test_each_start_has_its_own_and_exec_none(runner: Any, listening: Any) -> None:
    script = "echo $LISTEN_FDS $LISTEN_FDNAMES; ls /proc/self/fd | wc -l; exec sleep 1000 >&- 2>&-"
    running = await runner.pod(runner.pods.make(runner.pods.app("/bin/sh", "-c", script)))
    for told in ([listening[0]], [], listening[1:]):
        read_end, write_end = os.pipe()
        sockets = [(name, one.fileno()) for name, one in told]
        await running.sandbox.start_app(
            "app", stdin=None, stdout=write_end, stderr=write_end, sockets=sockets
        )
        os.close(write_end)
        with os.fdopen(read_end) as file:
            names = ":".join(name for name, _ in told)
            assert file.readline().split() == ([str(len(told)), names] if told else [])
            assert int(file.readline()) == 4 + len(told)  # the listing's own, too
        read_end, write_end = os.pipe()
        seen = ["/bin/sh", "-c", "echo $LISTEN_FDS $LISTEN_PID; ls /proc/self/fd | wc -l"]
        done = await running.sandbox.exec("app", seen, streams=(write_end, write_end))
        os.close(write_end)
        assert await done.ended == (0, None)
        with os.fdopen(read_end) as file:
            assert file.read() == "\n4\n"
        await running.sandbox.signal_app("app", 9)
        await running.ended()
        await running.sandbox.remove_app("app")


async def test_without_lists_it_is_refused(pods: Any, listening: Any) -> None:
    launcher = await Launcher.start(lists=False, spares=0)
    try:
        sandbox = await launcher.run_pod(pods.make(pods.app("/bin/true")), print, print)
        with pytest.raises(LaunchError, match="sockets for an app: not done"):
            await sandbox.start_app(
                "app", stdin=None, stdout=2, stderr=2, sockets=[("http", listening[0][1].fileno())]
            )
    finally:
        await launcher.close()
