"""A stage1 whose apps come and go: `app/add`, `app/start`, `app/stop`, `app/rm`."""

import asyncio
import json
import signal
from pathlib import Path
from typing import Any

import pytest

from executor.contract.files import Appearance
from executor.pods.launcher import LaunchError

pytestmark = pytest.mark.root
LOOP = "trap 'exit 3' TERM; echo up; while :; do sleep 0.05; done"


async def start(sandbox: Any, app: str, out: Any) -> None:
    await sandbox.start_app(app, stdin=None, stdout=out.fd, stderr=out.fd)


def apps(pod: Path, name: str = "pod") -> list[str]:
    return [app["name"] for app in json.loads((pod / name).read_text())["apps"]]


async def test_apps_are_added_and_started_one_by_one(world: Any, output: Any, until: Any) -> None:
    out = output("0"), output("1")
    pod = world.pod(world.stage1("mutable", 6), "cat /data; echo $AC_APP_NAME; exit 4", "echo second; exit 0")
    sandbox = await world.run(pod)
    assert apps(pod, "first-pod") == []
    await until(lambda: f"stdout F supervisor of {pod}" in (pod / "stage1/output").read_text())
    assert "--mutable" in (pod / "run-arguments").read_text().split()
    await start(sandbox, "a1", out[1])
    assert apps(pod) == ["a1"]
    await start(sandbox, "a0", out[0])
    assert (await world.exit_of("a0")).exit_code == 4
    assert (await world.exit_of("a1")).exit_code == 0
    assert (out[0].text, out[1].text) == ("from the imagea0\n", "second\n")
    assert (pod / "added").read_text().splitlines()[0] == f"--debug=false --uuid={pod.name} --app=a1"
    manifest = json.loads((pod / "pod").read_text())
    assert {"name": "coreos.com/rkt/stage1/mutable", "value": "true"} in manifest["annotations"]


async def test_one_of_them_is_started_again_afresh(world: Any, output: Any) -> None:
    out = output("0"), output("1")
    pod = world.pod(world.stage1("mutable", 6), "cat /mark 2>/dev/null; echo old > /mark; echo run", LOOP)
    sandbox = await world.run(pod)
    await start(sandbox, "a1", out[1])
    await start(sandbox, "a0", out[0])
    await world.exit_of("a0")
    await sandbox.remove_app("a0")
    assert apps(pod) == ["a1"]
    await start(sandbox, "a0", out[0])
    await world.until(lambda: len(world.exits) == 2)
    assert [one.app for one in world.exits] == ["a0", "a0"]
    assert out[0].text == "run\nrun\n"


async def test_removing_one_keeps_what_another_of_the_same_image_wrote(
    world: Any, output: Any, until: Any
) -> None:
    out = output("0"), output("1")
    pod = world.pod(world.stage1("mutable", 6), "exit 0", "echo mine > /kept; " + LOOP)
    sandbox = await world.run(pod)
    await start(sandbox, "a1", out[1])
    await start(sandbox, "a0", out[0])
    await world.exit_of("a0")
    await until(lambda: "up" in out[1].text)
    await sandbox.remove_app("a0")
    ran = await sandbox.exec("a1", ["/bin/cat", "/kept"], streams=(out[0].fd, out[0].fd))
    assert await asyncio.wait_for(ran.ended, 60) == (0, None)
    assert out[0].text == "mine\n"


async def test_stop_of_one(world: Any, output: Any, until: Any) -> None:
    out = output("0"), output("1")
    pod = world.pod(world.stage1("mutable", 6), LOOP, LOOP)
    sandbox = await world.run(pod)
    for number, one in enumerate(out):
        await start(sandbox, f"a{number}", one)
    await until(lambda: all("up" in one.text for one in out))
    await sandbox.signal_app("a0", signal.SIGTERM)
    assert (await world.exit_of("a0")).exit_code == 3
    assert [one.app for one in world.exits] == ["a0"]
    await sandbox.signal_app("a1", signal.SIGKILL)
    assert (await world.exit_of("a1")).exit_code == 3


async def test_an_app_that_does_not_end_takes_its_pod_along(world: Any, output: Any, until: Any) -> None:
    out = output()
    pod = world.pod(world.stage1("mutable", 6), "trap '' TERM; echo up; while :; do sleep 0.05; done")
    sandbox = await world.run(pod)
    await start(sandbox, "a0", out)
    await until(lambda: "up" in out.text)
    await sandbox.signal_app("a0", signal.SIGKILL)
    assert world.gone == ["stage1 mutable-0: a0 did not end when it was stopped; its pod was killed"]


async def test_a_supervisor_that_ends_is_the_end_of_the_pod(world: Any, output: Any) -> None:
    pod = world.pod(world.stage1("mutable", 6), LOOP)
    sandbox = await world.run(pod)
    await start(sandbox, "a0", output())
    await (await sandbox.holder.spawn(["/bin/sh", "-c", "kill -TERM $(cat pid)"], (1, 2))).ended
    await world.until(lambda: world.gone)
    assert world.gone == ["stage1 mutable-0: `run` ended, exit code 0"]


async def test_what_app_add_says_no_to_is_not_there(world: Any, output: Any) -> None:
    pod = world.pod(world.stage1("mutable", 6, app_add="echo no room >&2; exit 1"), "true")
    sandbox = await world.run(pod)
    with pytest.raises(LaunchError, match="app/add a0: ended with exit code 1: no room"):
        await start(sandbox, "a0", output())
    assert apps(pod) == []


async def test_one_that_is_never_ready(world: Any) -> None:
    run = "echo $$ > pid; while :; do sleep 0.1; done"
    world.patience = type(world.patience)(start=0.5, poll=0.02, gc=3.0)
    pod = world.pod(world.stage1("mutable", 6, run=run), "true")
    with pytest.raises(LaunchError, match=r"its supervisor was not ready within 0.5 s"):
        await world.run(pod)


async def test_a_supervisor_may_take_back_at_once_that_it_is_ready(world: Any, output: Any) -> None:
    """rkt's unit does, with any systemd for which what is over has been stopped."""
    run = """
        echo $$ > pid; cp pod first-pod
        ln -s ready stage1/rootfs/rkt/x; mv -T stage1/rootfs/rkt/x stage1/rootfs/rkt/supervisor-status
        rm stage1/rootfs/rkt/supervisor-status
        trap 'exit 0' TERM; while :; do sleep 0.1; done"""
    pod = world.pod(world.stage1("mutable", 6, run=run), "echo hello; exit 4")
    sandbox = await world.run(pod)
    out = output("0")
    await start(sandbox, "a0", out)
    assert (await world.exit_of("a0")).exit_code == 4
    assert out.text == "hello\n"


def test_what_cannot_be_watched_never_appears(tmp_path: Path) -> None:
    appeared = Appearance(tmp_path / "none", "x")
    assert not appeared.seen()
    appeared.close()
    appeared = Appearance(tmp_path, "x")
    (tmp_path / "xy").touch()
    assert not appeared.seen()
    (tmp_path / "x").touch()
    (tmp_path / "x").unlink()
    assert appeared.seen()
    appeared.close()
