"""The process that starts apps one after another: what it is afterwards, and what is done without it."""

import asyncio
import os
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from executor.pods.launcher import Launcher, LaunchError

pytestmark = pytest.mark.root


def starters(launcher: Launcher) -> list[int]:
    """Processes of the launcher's that start apps."""
    try:
        pids = Path(f"/proc/{launcher.pid}/task/{launcher.pid}/children").read_text().split()
        return [int(pid) for pid in pids if Path(f"/proc/{pid}/comm").read_text() == "gantry-start\n"]
    except FileNotFoundError:
        return []  # one has just ended: ask again


def standing(pid: int) -> dict[str, object]:
    """What a start may have changed in a process, but for its mount namespace: each app gets a copy of its own."""
    status = Path(f"/proc/{pid}/status").read_text().splitlines()
    wanted = ("Umask", "Uid", "Gid", "Groups", "Cap", "Seccomp", "NoNewPrivs", "SigB", "SigI", "SigC")
    found: dict[str, object] = {line: "" for line in status if line.startswith(wanted)}
    for name in ("net", "ipc", "uts", "pid", "pid_for_children", "user", "cgroup"):
        found[name] = os.readlink(f"/proc/{pid}/ns/{name}")
    found["cgroup of"] = Path(f"/proc/{pid}/cgroup").read_text()
    found["root"], found["cwd"] = os.readlink(f"/proc/{pid}/root"), os.readlink(f"/proc/{pid}/cwd")
    found["limits"] = Path(f"/proc/{pid}/limits").read_text()
    found["oom"] = Path(f"/proc/{pid}/oom_score_adj").read_text()
    found["descriptors"] = len(os.listdir(f"/proc/{pid}/fd"))
    found["mounts"] = len(Path(f"/proc/{pid}/mountinfo").read_text().splitlines())
    found["keyring"] = Path(f"/proc/{pid}/sessionid").read_text()
    return found


@pytest.fixture
async def other(pods: Any) -> AsyncIterator[Launcher]:
    """A launcher without lists."""
    launcher = await Launcher.start(lists=False)
    try:
        yield launcher
    finally:
        await launcher.close()


async def test_it_is_the_same_after_whatever_it_has_started(
    runner: Any, eventually: Callable[..., Any]
) -> None:
    await eventually(lambda: len(starters(runner.launcher)) == 1)
    (before,) = starters(runner.launcher)
    await (await runner.pod(runner.pods.make(runner.pods.app("/bin/true")))).stop()
    was = standing(before)
    everything = [
        {"name": "os/linux/oom-score-adj", "value": 500},
        {"name": "os/linux/no-new-privileges", "value": True},
        {"name": "gantry.io/rlimits", "value": {"nofile": {"soft": 77, "hard": 99}}},
        {"name": "resource/memory", "value": {"limit": "32Mi"}},
    ]
    for flavor in ("linux", "fly"):
        for note in (
            ({}, {"user_namespace": "host"}, {"host_network": "true"}) if flavor == "linux" else ({},)
        ):
            made = runner.pods.app("/bin/sleep", "1000", user="1234", group="2345", isolators=everything)
            pod = await runner.pod(runner.pods.make(made, flavor=flavor, **note))
            await pod.start()
            again = await pod.sandbox.exec("app", ["/bin/true"])
            assert await again.ended == (0, None)
            os.close(again.terminal)
            await pod.stop()
    assert starters(runner.launcher) == [before]
    await eventually(lambda: standing(before) == was)


async def test_the_next_app_has_nothing_of_the_last_one_s(runner: Any) -> None:
    show = "id -u; umask; ulimit -n; cat /proc/self/oom_score_adj; ls /proc/self/fd | wc -l; hostname; pwd"
    first = await runner.sh(show)
    isolators = [
        {"name": "os/linux/oom-score-adj", "value": 500},
        {"name": "gantry.io/rlimits", "value": {"nofile": {"soft": 77, "hard": 99}}},
    ]
    changed = await runner.sh(show, user="1234", group="2345", workingDirectory="/tmp", isolators=isolators)
    assert changed.lines[:4] == ["1234", "0022", "77", "500"]
    assert (await runner.sh(show)).output == first.output


async def test_after_a_start_that_failed_there_is_another(
    runner: Any, eventually: Callable[..., Any]
) -> None:
    await eventually(lambda: len(starters(runner.launcher)) == 1)
    (before,) = starters(runner.launcher)
    pod = await runner.pod(
        runner.pods.make(runner.pods.app("/bin/nope"), runner.pods.app("/bin/true", name="b"))
    )
    with pytest.raises(LaunchError, match=r"^exec /bin/nope: No such file or directory$"):
        await pod.start()
    await pod.start("b")
    assert (await pod.ended()).exit_code == 0
    await eventually(lambda: len(starters(runner.launcher)) == 1)
    assert starters(runner.launcher) != [before]


async def test_at_once_there_are_as_many_as_it_takes(runner: Any, eventually: Callable[..., Any]) -> None:
    names = [f"a{number}" for number in range(6)]
    apps = [runner.pods.app("/bin/sh", "-c", f"echo {name}; exit 3", name=name) for name in names]
    pod = await runner.pod(runner.pods.make(*apps))
    outputs = [(await pod.start(name))[1] for name in names]
    assert [await output.text() for output in outputs] == [f"{name}\n" for name in names]
    assert sorted([(await pod.ended()).app for _ in names]) == names
    await eventually(lambda: len(starters(runner.launcher)) >= 1)


@pytest.mark.parametrize("flavor", ["linux", "fly"])
async def test_without_lists_it_is_the_same(other: Launcher, runner: Any, flavor: str) -> None:
    runner.launcher = other
    result = await runner.sh("id -u; echo $$; exit 7", user="1234", flavor=flavor)
    assert result.exit.exit_code == 7
    assert result.lines[0] == "1234"
    pod = await runner.pod(runner.pods.make(runner.pods.app("/bin/sleep", "1000"), flavor=flavor))
    await pod.start()
    made = await pod.sandbox.exec("app", ["/bin/false"])
    assert await made.ended == (1, None)
    os.close(made.terminal)
    await pod.stop()


@pytest.mark.parametrize("users", ["private", "host"])
async def test_without_lists_an_app_is_the_first_of_its_own_all_the_same(
    other: Launcher, runner: Any, users: str
) -> None:
    script = """
    echo $$ $(echo /proc/[0-9]*); id; cut -d' ' -f5 /proc/self/mountinfo | sort; head -c 9 /proc/timer_list | wc -c
    grep -E '^(Cap|NoNew|Seccomp|Sig|Umask)' /proc/self/status; cat /proc/self/cgroup; env; pwd
    ls -l /proc/self/fd | wc -l
    """
    pod = {"processes": "own", "user_namespace": users}
    how = {"user": "1234", "workingDirectory": "/tmp", "pod": pod}
    one = await runner.sh(script, **how)
    runner.launcher = other
    again = await runner.sh(script, **how)
    assert again.lines[0].split()[0] == "1"
    assert again.lines == one.lines
    ended = await runner.sh("setsid sleep 1000 & exit 7", pod=pod)
    assert ended.exit.exit_code == 7
    for command in ("/nope", "/plain.txt"):
        running = await runner.pod(runner.pods.make(runner.pods.app(command), **pod))
        with pytest.raises(LaunchError, match=f"exec {command}: "):
            await running.start()
        await running.stop()


async def test_without_lists_the_first_of_its_own_may_have_a_terminal(other: Launcher, runner: Any) -> None:
    runner.launcher = other
    app = runner.pods.app("/bin/sh", "-c", "echo $$ $(tty); read line; exit 4", user="1234")
    running = await runner.pod(runner.pods.make(app, processes="own"))
    _, master = await running.sandbox.start_terminal("app")
    with os.fdopen(master, "r+b", buffering=0) as terminal:
        assert await asyncio.to_thread(terminal.read, 100) == b"1 /dev/pts/0\r\n"
        terminal.write(b"\n")
        assert (await running.ended()).exit_code == 4


async def test_places_for_volumes_are_the_same_without_lists(
    other: Launcher, runner: Any, tmp_path: Path
) -> None:
    layer, directory, file = tmp_path / "layer", tmp_path / "directory", tmp_path / "file"
    for path in (layer / "there", directory):
        path.mkdir(parents=True)
    file.write_text("text\n")
    (layer / "dangling").symlink_to("made/for/it")
    (layer / "up").symlink_to("../../..")
    targets = {
        "d": ("/new", "/there", "/a/b/c", "/dangling", "/up/of", "/dev/d", "/etc/d/"),
        "f": ("/new-file", "/dev/termination-log", "/x/y/file", "/etc/../file"),
    }
    volumes = [
        {"name": "d", "kind": "host", "source": str(directory)},
        {"name": "f", "kind": "host", "source": str(file)},
    ]
    mounts = [{"volume": name, "path": path} for name, paths in targets.items() for path in paths]
    found = []
    for launcher in (runner.launcher, runner.launcher, other):
        runner.launcher = launcher
        for mount in mounts:
            name = mount["path"]
            result = await runner.sh(
                f"stat -c '%F %a %u' {name}; find / -xdev ! -path '/bin*' | sort",
                mounts=[mount],
                pod={"volumes": volumes, "layers": (layer,)},
            )
            found.append((name, result.exit.exit_code, result.output))
    count = len(mounts)
    assert found[:count] == found[count : 2 * count] == found[2 * count :]
    assert all(code == 0 for _, code, _ in found)


async def test_starts_of_one_shape_are_not_taken_for_another_s(runner: Any) -> None:
    """One process starts them all, some of which differ in one thing alone."""
    isolators = {
        "capabilities": ("os/linux/capabilities-retain-set", {"set": ["CAP_NET_RAW"]}),
        "privileges": ("os/linux/no-new-privileges", True),
        "limits": ("gantry.io/rlimits", {"nofile": {"soft": 77, "hard": 99}}),
        "killed first": ("os/linux/oom-score-adj", 500),
        "calls": ("os/linux/seccomp-remove-set", {"set": ["mkdir", "mkdirat"]}),
    }
    variants: dict[str, dict[str, Any]] = {
        "plain": {},
        "plain, but for words": {"environment": [{"name": "WORD", "value": "one"}]},
        "other words": {"environment": [{"name": "WORD", "value": "other"}]},
        "user": {"user": "1234", "group": "2345", "supplementaryGIDs": [7]},
        "named": {"user": "app", "group": "web"},
        "directory": {"workingDirectory": "/tmp"},
        "host's users": {"pod": {"user_namespace": "host"}},
        "own": {"pod": {"processes": "own"}},
        "fly": {"flavor": "fly"},
        "name": {"pod": {"hostname": "other"}},
        **{
            name: {"isolators": [{"name": kind, "value": value}]} for name, (kind, value) in isolators.items()
        },
    }
    show = (
        "id; pwd; hostname; ulimit -n; cat /proc/self/oom_score_adj; grep -E '^(Cap|Sec|NoNew)' /proc/self/status;"
        "env | sort; cut -d' ' -f5,6 /proc/self/mountinfo; [ $$ = 1 ] && echo first; mkdir /tmp/x || echo refused"
    )
    seen: dict[str, set[str]] = {name: set() for name in variants}
    for names in (list(variants), list(reversed(variants)), list(variants)):
        for name in names:
            result = await runner.sh(show, **variants[name])
            seen[name].add(result.output)
    assert {name: len(texts) for name, texts in seen.items()} == dict.fromkeys(variants, 1)
    assert len({text for texts in seen.values() for text in texts}) == len(variants)
