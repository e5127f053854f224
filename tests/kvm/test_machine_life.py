"""A pod in a virtual machine: apps, their exit codes and output, exec, terminals, volumes, restarts, limits."""

import asyncio
import contextlib
import fcntl
import os
import resource
import signal
import socket
import struct
import termios
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from executor.pods.launcher import LaunchError
from executor.stage1.podfiles import memory_volume

pytestmark = [
    pytest.mark.root,
    pytest.mark.timeout(300),
    pytest.mark.xdist_group("machines"),
    pytest.mark.asyncio(loop_scope="module"),
]

# What the kernel says of a process, without its pids, times and memory (tests/stage1/test_exec.py has the same).
FACTS = r"""
grep -E '^(Umask|[UG]id|Groups|NoNewPrivs|Seccomp.*|Cap...|Sig(Blk|Ign|Cgt)|Cpus_allowed):' /proc/$$/status
for space in cgroup ipc mnt net pid user uts; do readlink /proc/$$/ns/$space; done
cat /proc/$$/cgroup /proc/$$/limits /proc/$$/oom_score_adj; readlink /proc/$$/cwd /proc/$$/root
tr '\0' '\n' < /proc/$$/environ | sort
echo end
"""
STAYS = ["sh", "-c", "trap 'exit 42' TERM; while :; do sleep 1 & wait $!; done"]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def machine(start: Any, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """One pod with an app for every test that wants one."""
    host = tmp_path_factory.mktemp("host")
    (host / "given").write_text("from the host\n")
    (host / "secret").mkdir()
    log = host / "termination"
    log.write_text("")
    apps = {
        "who": {"exec": ["sh", "-c", "id -u; id -g; hostname; uname -r; echo $GREETING; ulimit -n; exit 7"],
                "user": "1234", "group": "2345", "environment": [{"name": "GREETING", "value": "hello"}]},
        "stays": {"exec": STAYS, "mounts": [{"volume": "shared", "path": "/shared"}]},
        "files": {"exec": ["sh", "-c", ("cat /host/given; echo x > /host/new || echo refused; ls -A /secret; "
                           "echo bye > /dev/termination; echo $(cat /shared/n)1 > /shared/n; cat /shared/n; "
                           "test -e /mark && echo kept; touch /mark; ls /; cat /replaced/*")],
                  "mounts": [{"volume": "host", "path": "/host", "readOnly": True},
                             {"volume": "shared", "path": "/shared"}, {"volume": "log", "path": "/dev/termination"},
                             {"volume": "host", "path": "/secret", "gantry.io/sub-path": "secret"}]},
        "hungry": {"exec": ["dd", "if=/dev/zero", "of=/dev/null", "bs=1500M", "count=1"],
                   "isolators": [{"name": "resource/memory", "value": {"limit": "32Mi"}}]},
        "greedy": {"exec": ["dd", "if=/dev/zero", "of=/dev/null", "bs=1500M", "count=1"]},
        "copies": {"exec": ["cat"]},
        "same": {"exec": ["sh", "-c", FACTS + "while :; do sleep 1000; done"], "user": "1234", "group": "2345",
                 "supplementaryGIDs": [77, 99], "workingDirectory": "/tmp",
                 "environment": [{"name": "COLOUR", "value": "blue"}],
                 "isolators": [{"name": "os/linux/no-new-privileges", "value": True},
                               {"name": "os/linux/oom-score-adj", "value": 123},
                               {"name": "os/linux/capabilities-retain-set", "value": {"set": ["CAP_NET_RAW"]}},
                               {"name": "resource/memory", "value": {"limit": "64Mi"}}]},
        "missing": {"exec": ["/bin/nope"]},
        "tells": {"exec": ["logger", "READY=1"], "user": "1234", "mounts": [{"volume": "told", "path": "/dev/log"}]},
    }  # fmt: skip
    volumes = [
        {"name": "shared", "kind": "empty", "mode": "0777"},
        {"name": "host", "kind": "host", "source": str(host)},
        {"name": "log", "kind": "host", "source": str(log)},
        {"name": "memory", "kind": "empty", "gantry.io/medium": "Memory"},
        {"name": "told", "kind": "host", "source": str(host / "told"), "gantry.io/datagram-socket": True},
    ]
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as told:
        with contextlib.chdir(host):  # the whole path may be too long
            told.bind("told")
        told.settimeout(60)
        made = await start(apps, volumes=volumes)
        made.host_directory, made.told = host, told
        yield made


async def test_an_app_is_itself_in_a_kernel_of_its_own(machine: Any) -> None:
    ended, output = await machine.run("who")
    assert (ended.exit_code, ended.signal, ended.oom_killed) == (7, None, False)
    uid, gid, name, release, greeting, files = output.split("\n")[:6]
    assert (uid, gid, name, greeting) == ("1234", "2345", "web", "hello")
    assert release != os.uname().release
    assert int(files) == resource.getrlimit(resource.RLIMIT_NOFILE)[0], "the executor's, as anywhere"


async def test_volumes_layers_and_a_restart(machine: Any) -> None:
    host: Path = machine.host_directory
    ended, output = await machine.run("files")
    assert ended.exit_code == 0, output
    lines = output.splitlines()
    assert lines[0] == "from the host"
    assert "refused" in lines
    assert not (host / "new").exists()
    assert (host / "termination").read_text() == "bye\n"
    assert "removed" not in lines
    assert lines[-1] == "new", "a directory that replaces one of a lower layer shows nothing of that"
    assert "not to be seen" not in output
    await machine.sandbox.remove_app("files")
    ended, output = await machine.run("files")
    assert "11" in output.splitlines(), "a volume outlives the app"
    assert "kept" not in output.splitlines(), "what it wrote to its root does not"


async def test_an_executed_process_is_what_the_app_is(machine: Any) -> None:
    reader, writer = os.pipe()
    await machine.sandbox.start_app("same", stdin=None, stdout=writer, stderr=writer)
    os.close(writer)
    output, loop = asyncio.StreamReader(), asyncio.get_running_loop()
    transport, _ = await loop.connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(output), os.fdopen(reader)
    )
    app = await asyncio.wait_for(output.readuntil(b"end\n"), 60)
    transport.close()
    assert b"\nCOLOUR=blue\n" in app
    assert b"\nUid:\t1234" in app
    assert await machine.exec("same", "sh", "-c", FACTS) == (0, None, app.decode())


async def test_exec_is_run(machine: Any) -> None:
    reader, writer = os.pipe()
    await machine.sandbox.start_app("stays", stdin=None, stdout=writer, stderr=writer)
    os.close(writer)
    code, signum, output = await machine.exec("stays", "sh", "-c", "echo $AC_APP_NAME; ps; exit 5")
    assert (code, signum) == (5, None)
    assert output.startswith("stays\n")
    assert "trap" in output, "it sees the processes of the app"
    with pytest.raises(LaunchError, match="No such file"):
        await machine.sandbox.exec("stays", ["/bin/nope"], streams=(1, 2))
    made = await machine.sandbox.exec("stays", ["sleep", "100"], streams=(1, 2))
    await made.signal(signal.SIGINT)
    assert await asyncio.wait_for(made.ended, 60) == (None, signal.SIGINT)

    await _terminal(machine)

    await machine.sandbox.signal_app("stays", signal.SIGTERM)
    ended = await asyncio.wait_for(machine.exits["stays"].get(), 60)
    assert (ended.exit_code, ended.signal) == (42, None)
    os.close(reader)


async def _terminal(machine: Any) -> None:
    made = await machine.sandbox.exec("stays", ["sh", "-c", "tty; read x; stty size; echo got $x"])
    fcntl.ioctl(made.terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 33, 99, 0, 0))
    seen = b""
    os.set_blocking(made.terminal, False)
    loop, more = asyncio.get_running_loop(), asyncio.Event()
    loop.add_reader(made.terminal, more.set)
    try:
        while b"got" not in seen:
            await asyncio.wait_for(more.wait(), 60)
            more.clear()
            try:
                seen += os.read(made.terminal, 4096)
            except BlockingIOError:
                continue
            if b"/dev/pts" in seen and b"typed" not in seen:
                os.write(made.terminal, b"typed\n")
        assert await asyncio.wait_for(made.ended, 60) == (0, None)
    finally:
        loop.remove_reader(made.terminal)
        os.close(made.terminal)
    assert b"typed\r\n" in seen, "the guest's terminal echoes"
    assert b"33 99" in seen


async def test_more_than_fits_anywhere_goes_through(machine: Any, tmp_path: Path) -> None:
    data = os.urandom(1 << 20)
    (tmp_path / "in").write_bytes(data)
    with (tmp_path / "in").open("rb") as source, (tmp_path / "out").open("wb") as sink:
        await machine.sandbox.start_app("copies", stdin=source.fileno(), stdout=sink.fileno(), stderr=2)
    ended = await asyncio.wait_for(machine.exits["copies"].get(), 60)
    assert ended.exit_code == 0
    assert (tmp_path / "out").read_bytes() == data


async def test_datagrams_reach_the_host_s_socket(machine: Any) -> None:
    """As sd_notify's do. It is an app's who may not do much."""
    ended, output = await machine.run("tells")
    assert ended.exit_code == 0, output
    assert b"READY=1" in await asyncio.to_thread(machine.told.recv, 4096)


@pytest.mark.parametrize("app", ["hungry", "greedy"], ids=["its own limit", "the pod's"])
async def test_too_much_memory_is_told_from_other_deaths(machine: Any, app: str) -> None:
    """It asks for more at once than the machine has: what counts is what it uses, as in a cgroup."""
    ended, _ = await machine.run(app)
    assert ended.oom_killed
    assert not machine.gone.done()


async def test_what_cannot_be_started_says_why(machine: Any) -> None:
    with pytest.raises(LaunchError, match="/bin/nope: No such file or directory"):
        await machine.run("missing")


async def test_the_pod_s_memory_volumes_are_reached_through_its_pid(machine: Any) -> None:
    assert Path(memory_volume(machine.sandbox.pid, "memory")).is_dir()


async def test_nothing_is_left(machine: Any, leftovers: Any) -> None:
    """Last: it ends the machine."""
    await machine.sandbox.stop()
    assert leftovers(machine.directory) == []
    with pytest.raises(LaunchError):
        await machine.run("who")
