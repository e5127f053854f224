"""Apps that come and go while their pod runs."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from executor.pods.launcher import LaunchError
from executor.stage1 import manifest
from executor.stage1.ops import StageError
from executor.stage1.update import updated


def _pod(**more: Any) -> manifest.Pod:
    body = {"acVersion": "0.8.11", "acKind": "PodManifest", "apps": [], **more}
    return manifest.read(json.dumps(body))


def _app(name: str, isolators: list[dict[str, Any]] | None = None, **notes: str) -> dict[str, Any]:
    return {
        "name": name,
        "app": {"exec": ["/x"], "user": "0", "group": "0", "isolators": isolators or []},
        "annotations": [
            {"name": f"gantry.io/{key.replace('_', '-')}", "value": value} for key, value in notes.items()
        ],
    }


def test_apps_change_and_ids_stay() -> None:
    first = _pod()._replace(ids=7)
    made = updated(first, _pod(apps=[_app("one")]), set())
    assert (list(made.apps), made.ids) == (["one"], 7)
    assert not updated(first, _pod(), set()).apps


_NOTE = [{"name": "gantry.io/hostname", "value": "other"}]
_MEMORY = [{"name": "v", "kind": "empty", "gantry.io/medium": "Memory"}]
_DISK = [{"name": "resource/block-iops", "value": {"default": True, "limit": "100"}}]


@pytest.mark.parametrize(
    ("more", "why"),
    [
        ({"annotations": _NOTE}, "hostname cannot change"),
        ({"isolators": [{"name": "gantry.io/pids", "value": {"limit": 3}}]}, "limits cannot change"),
        ({}, "app runs still runs"),
        ({"volumes": _MEMORY}, "volume v: volumes in memory"),
        ({"apps": [_app("p", privileged="true")]}, "app p: the pod was not started for privileged apps"),
        ({"apps": [_app("d", _DISK)]}, "app d: limits of the disk"),
    ],
)
def test_what_has_to_be_there_from_the_start(more: dict[str, Any], why: str) -> None:
    with pytest.raises(StageError, match=why):
        updated(_pod(), _pod(**more), {"runs"} if not more else set())


def test_privileged_apps_in_a_pod_that_expects_them() -> None:
    notes = [{"name": "gantry.io/privileged", "value": "true"}]
    first = _pod(annotations=notes)
    assert not first.may_have_users
    assert (
        updated(first, _pod(annotations=notes, apps=[_app("p", privileged="true")]), set())
        .apps["p"]
        .privileged
    )


@pytest.fixture
def change() -> Callable[..., None]:
    """Write a pod's apps anew."""

    def write(pods: Any, directory: Path, *apps: dict[str, Any]) -> None:
        found = json.loads((directory / "pod").read_text())
        (directory / "pod").write_text(json.dumps({**found, "apps": list(apps)}))
        for app in apps:
            info = directory / "appsinfo" / app["name"]
            info.mkdir(parents=True, exist_ok=True)
            (info / "lower").write_text(f"{pods.image}\n")

    return write


@pytest.mark.root
@pytest.mark.parametrize("flavor", ["linux", "fly"])
async def test_an_app_comes_and_goes(runner: Any, nothing_left: Any, change: Any, flavor: str) -> None:
    directory = runner.pods.make(flavor=flavor)
    pod = await runner.pod(directory)
    with pytest.raises(LaunchError, match="no such app"):
        await pod.start("late")
    late = runner.pods.app("/bin/sh", "-c", "echo $AC_APP_NAME; sleep 1000", name="late")
    change(runner.pods, directory, late)
    await pod.sandbox.update()
    await pod.start("late")
    change(runner.pods, directory)
    with pytest.raises(LaunchError, match="late still runs"):
        await pod.sandbox.update()
    await pod.sandbox.signal_app("late", 9)
    await pod.ended()
    await pod.sandbox.remove_app("late")
    await pod.sandbox.update()
    with pytest.raises(LaunchError, match="no such app"):
        await pod.start("late")
    # One of the same name that is another.
    change(runner.pods, directory, runner.pods.app("/bin/echo", "again", name="late"))
    await pod.sandbox.update()
    _, output = await pod.start("late")
    assert ((await pod.ended()).exit_code, await output.text()) == (0, "again\n")
    await pod.stop()
    await nothing_left(directory)


@pytest.mark.root
async def test_event_handlers_leave_no_status(runner: Any) -> None:
    directory = runner.pods.make(runner.pods.app("/bin/sh", "-c", "exit 3"))
    pod = await runner.pod(directory)
    status = directory / "stage1/rootfs/rkt/status"
    await pod.sandbox.start_handler("app", ["/bin/true"], stdout=1, stderr=2)
    assert (await pod.ended()).exit_code == 0
    assert not list(status.iterdir())
    await pod.start()
    assert (await pod.ended()).exit_code == 3
    await pod.sandbox.start_handler("app", ["/bin/true"], stdout=1, stderr=2)
    await pod.ended()
    assert (status / "app").read_text() == "3\n"
