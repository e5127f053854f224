"""A stage1 of interface 1 that runs all apps at once below one supervisor, which it names by `ppid`."""

import signal
from pathlib import Path
from typing import Any

import pytest

from executor.pods.launcher import LaunchError

pytestmark = pytest.mark.root


async def start(world: Any, pod: Path, *outputs: Any) -> Any:
    sandbox = await world.run(pod)
    for number, out in enumerate(outputs):
        await sandbox.start_app(f"a{number}", stdin=None, stdout=out.fd, stderr=out.fd)
    return sandbox


async def test_each_app_has_its_exit_code(world: Any, output: Any) -> None:
    pod = world.pod(world.stage1("several", None), "exit 0", "sleep 0.3; exit 0")
    await start(world, pod, output("0"), output("1"))
    assert (await world.exit_of("a0")).exit_code == 0
    assert (await world.exit_of("a1")).exit_code == 0
    assert (pod / "run-arguments").read_text().split() == ["--net=none", "--local-config=/etc/rkt", pod.name]


async def test_one_that_fails_ends_the_others(world: Any, output: Any) -> None:
    pod = world.pod(
        world.stage1("several", None),
        "trap 'exit 0' TERM; echo up; while :; do sleep 0.05; done",
        "sleep 0.5; exit 6",
    )
    await start(world, pod, output("0"), output("1"))
    assert (await world.exit_of("a1")).exit_code == 6
    assert (await world.exit_of("a0")).exit_code == 0


async def test_the_output_of_all_is_the_firsts(world: Any, output: Any) -> None:
    name = world.stage1("several", None)
    first, second = output("0"), output("1")
    pod = world.pod(name, "echo one; exit 0", "echo two; exit 0")
    await start(world, pod, first, second)
    await world.exit_of("a0")
    await world.exit_of("a1")
    assert sorted(first.text.splitlines()) == ["one", "two"]
    told = "what it does not label as an app's is in the log of a0"
    assert second.text == f"gantry: stage1 {name} has one output for all apps: {told}\n"


async def test_what_is_labelled_is_the_apps(world: Any, output: Any) -> None:
    """As systemd's journal does on the console."""
    name = world.stage1("several", None)
    first, second = output("0"), output("1")
    pod = world.pod(
        name, "echo [   12.345678] a1[7]: of the other; exit 0", "echo [12.345678] a0[8]: of one; exit 0"
    )
    await start(world, pod, first, second)
    await world.exit_of("a0")
    await world.exit_of("a1")
    assert first.text == "of one\n"
    assert "of the other" in second.text.splitlines()


async def test_no_app_starts_again(world: Any, output: Any) -> None:
    pod = world.pod(world.stage1("several", None), "exit 0", "exit 0")
    sandbox = await start(world, pod, output("0"), output("1"))
    await world.exit_of("a0")
    with pytest.raises(LaunchError, match="starts all apps of a pod at once and none again"):
        await sandbox.remove_app("a0")


async def test_stop_stops_all(world: Any, output: Any, until: Any) -> None:
    loop = "trap 'exit 0' TERM; echo up; while :; do sleep 0.05; done"
    pod = world.pod(world.stage1("several", None), loop, loop)
    out = output("0")
    sandbox = await start(world, pod, out, output("1"))
    await until(lambda: out.text.count("up") == 2)
    await sandbox.signal_app("a1", signal.SIGTERM)
    assert (await world.exit_of("a0")).exit_code == 0
    assert (await world.exit_of("a1")).exit_code == 0


async def test_apps_do_not_share_what_they_write(world: Any, output: Any) -> None:
    pod = world.pod(
        world.stage1("several", None), "echo 0 > /mine; exit 0", "sleep 0.2; cat /mine 2>/dev/null; exit 0"
    )
    out = output("0")
    await start(world, pod, out, output("1"))
    await world.exit_of("a1")
    assert out.text == ""
