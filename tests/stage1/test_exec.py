"""exec is run: a program that is executed into a running app is what the app is, and ends with it."""

import asyncio
import os
import re
import signal
from pathlib import Path
from typing import Any

import pytest

from executor.pods.launcher import LaunchError
from tests.waiting import until

pytestmark = pytest.mark.root

# What the kernel says of a process, without its pids, times, memory and what it has just done itself.
NAMES = r"Umask|Uid|Gid|Groups|NoNewPrivs|Seccomp|Seccomp_filters|Cap\w+|Sig(?:Blk|Ign|Cgt)|Cpus_allowed"
FACTS = re.compile(rf"^({NAMES}):\t(.*)$", re.MULTILINE)


async def run(
    running: Any, *argv: str, app: str = "app", **more: Any
) -> tuple[str, tuple[int | None, int | None]]:
    """Execute a program to its end: what it wrote, and how it ended."""
    read_end, write_end = os.pipe()
    made = await running.sandbox.exec(app, argv, streams=(write_end, write_end), **more)
    os.close(write_end)
    with os.fdopen(read_end, "rb") as file:
        output = await asyncio.wait_for(asyncio.to_thread(file.read), 60)
    return output.decode(), await asyncio.wait_for(made.ended, 60)


def facts_of(pid: int) -> dict[str, Any]:
    """A process, as the host sees it."""
    proc = Path(f"/proc/{pid}")
    status = dict(FACTS.findall((proc / "status").read_text()))
    spaces = ["cgroup", "ipc", "mnt", "net", "pid", "user", "uts"]
    # Who spawned it goes on (vfork) a moment before the kernel has noted where that is.
    environ = sorted(until("its environment", (proc / "environ").read_bytes).split(b"\0"))
    limits = (proc / "limits").read_text()
    return {
        **status,
        **{name: os.readlink(proc / "ns" / name) for name in spaces},
        "cgroup": (proc / "cgroup").read_text(),
        "environ": environ,
        "cwd": os.readlink(proc / "cwd"),
        "root": os.readlink(proc / "root"),
        "limits": limits,
        "oom": (proc / "oom_score_adj").read_text(),
    }


@pytest.mark.parametrize("flavor", ["linux", "fly"])
@pytest.mark.parametrize("user", ["0", "1234"])
async def test_an_executed_process_is_what_the_app_is(runner: Any, flavor: str, user: str) -> None:
    app = runner.pods.app(
        "/bin/sleep",
        "1000",
        user=user,
        group="2345" if user != "0" else "0",
        supplementaryGIDs=[77, 99],
        workingDirectory="/home",
        environment=[{"name": "COLOUR", "value": "blue"}],
        isolators=[
            {"name": "os/linux/no-new-privileges", "value": True},
            {"name": "os/linux/oom-score-adj", "value": 123},
            {"name": "os/linux/capabilities-retain-set", "value": {"set": ["CAP_NET_RAW", "CAP_KILL"]}},
            {"name": "resource/memory", "value": {"limit": "64Mi"}},
        ],
    )
    running = await runner.pod(runner.pods.make(app, flavor=flavor))
    pid, _ = await running.start()
    null = os.open("/dev/null", os.O_RDWR)
    made = await running.sandbox.exec("app", ["/bin/sleep", "1000"], streams=(null, null, null))
    os.close(null)
    assert facts_of(made.pid) == facts_of(pid)
    await made.signal(signal.SIGKILL)
    assert await asyncio.wait_for(made.ended, 60) == (None, signal.SIGKILL)
    assert Path(f"/proc/{pid}").exists()


async def test_output_exit_code_and_what_is_added(runner: Any) -> None:
    running = await runner.pod(runner.pods.make(runner.pods.app("/bin/sleep", "1000")))
    await running.start()
    script = "echo $TERM $PWD; echo err >&2; exit 7"
    output, how = await run(running, "sh", "-c", script, environment={"TERM": "xterm"}, directory="/tmp")
    assert (output, how) == ("xterm /tmp\nerr\n", (7, None))


async def test_what_cannot_be_executed_says_why(runner: Any) -> None:
    running = await runner.pod(runner.pods.make(runner.pods.app("/bin/sleep", "1000")))
    with pytest.raises(LaunchError, match="exec in app: it does not run"):
        await run(running, "/bin/true")
    await running.start()
    with pytest.raises(LaunchError, match="exec /bin/nope: No such file or directory"):
        await run(running, "/bin/nope")
    with pytest.raises(LaunchError, match=r"exec plain\.txt: executable file not found"):
        await run(running, "plain.txt")
    with pytest.raises(LaunchError, match=r"exec /proc/self/exe: (No such file|Too many levels)"):
        await run(running, "/proc/self/exe")
    with pytest.raises(LaunchError, match="there is nothing to run"):
        await run(running)
    assert (await run(running, "/bin/echo", "still"))[0] == "still\n"


async def test_it_ends_with_the_app(runner: Any) -> None:
    running = await runner.pod(runner.pods.make(runner.pods.app("/bin/sleep", "1000")))
    await running.start()
    null = os.open("/dev/null", os.O_RDWR)
    made = await running.sandbox.exec(
        "app", ["/bin/sh", "-c", "trap '' TERM; sleep 1000"], streams=(null, null)
    )
    os.close(null)
    await running.sandbox.signal_app("app", signal.SIGKILL)
    assert await asyncio.wait_for(made.ended, 60) == (None, signal.SIGKILL)
    await running.ended()


async def test_it_ends_with_the_pod(runner: Any, nothing_left: Any) -> None:
    running = await runner.pod(runner.pods.make(runner.pods.app("/bin/sleep", "1000")))
    await running.start()
    null = os.open("/dev/null", os.O_RDWR)
    made = [await running.sandbox.exec("app", ["sleep", "1000"], streams=(null, null)) for _ in range(10)]
    os.close(null)
    await running.stop()
    assert [await one.ended for one in made] == [(None, signal.SIGKILL)] * 10
    await nothing_left(running.directory)


async def test_it_counts_against_the_memory_of_the_app(runner: Any) -> None:
    limit = {"name": "resource/memory", "value": {"limit": "16Mi"}}
    running = await runner.pod(runner.pods.make(runner.pods.app("/bin/sleep", "1000", isolators=[limit])))
    await running.start()
    _, how = await run(
        running, "sh", "-c", "head -c 64m /dev/zero | tail | wc -c; exec tail -c 64m /dev/zero"
    )
    assert how == (None, signal.SIGKILL)


async def read_until(fd: int, wanted: bytes) -> bytes:
    data = b""
    while wanted not in data:
        data += await asyncio.wait_for(asyncio.to_thread(os.read, fd, 4096), 60)
    return data


@pytest.mark.parametrize("user", ["0", "1234"])
async def test_a_terminal(runner: Any, user: str) -> None:
    running = await runner.pod(runner.pods.make(runner.pods.app("/bin/sleep", "1000", user=user)))
    await running.start()
    made = await running.sandbox.exec("app", ["/bin/sh"], environment={"PS1": "> "})
    assert made.terminal is not None
    os.write(made.terminal, b"tty; echo in=$(stty size </dev/tty) $((6 * 7)); stty -echo\n")
    seen = await read_until(made.terminal, b" 42")
    assert b"/dev/pts/0" in seen
    os.write(made.terminal, b"exit 3\n")
    code, signum = await asyncio.wait_for(made.ended, 60)
    assert (code, signum) == (3, None)
    os.close(made.terminal)


@pytest.mark.parametrize("user", ["0", "1234"])
@pytest.mark.parametrize("users", ["host", "private"])
async def test_the_app_s_terminal_is_its_console(runner: Any, user: str, users: str) -> None:
    script = "echo term=$TERM tty=$(tty); echo seen > /dev/console; ls /dev/console; read l; exec sleep 1000"
    made = runner.pods.app("/bin/sh", "-c", script, user=user)
    running = await runner.pod(runner.pods.make(made, user_namespace=users))
    _, master = await running.sandbox.start_terminal("app")
    seen = await read_until(master, b"/dev/console")
    assert b"term=xterm tty=/dev/pts/0" in seen
    assert b"seen" in seen
    # A terminal of somebody who comes later is not the console.
    later = await running.sandbox.exec("app", ["/bin/sh", "-c", "tty; echo here > /dev/console; sleep 1000"])
    assert b"/dev/pts/1" in await read_until(later.terminal, b"/dev/pts/1")
    await read_until(master, b"here")
    for fd in (master, later.terminal):
        os.close(fd)


async def test_ctrl_c_reaches_what_runs_on_the_terminal(runner: Any) -> None:
    running = await runner.pod(runner.pods.make(runner.pods.app("/bin/sleep", "1000")))
    await running.start()
    made = await running.sandbox.exec("app", ["/bin/sh", "-c", "echo up; exec sleep 1000"])
    await read_until(made.terminal, b"up\r\n")
    os.write(made.terminal, b"\x03")
    assert await asyncio.wait_for(made.ended, 60) == (None, signal.SIGINT)
    os.close(made.terminal)


async def test_an_app_on_a_terminal(runner: Any) -> None:
    running = await runner.pod(runner.pods.make(runner.pods.app("/bin/sh", "-c", "tty; read x; echo got $x")))
    _, terminal = await running.sandbox.start_terminal("app")
    os.write(terminal, b"it\n")
    assert b"got it" in await read_until(terminal, b"got it")
    assert (await running.ended()).exit_code == 0
    os.close(terminal)
