"""A pod that was started without apps, in a machine: they come, and go, while it runs."""

import json
import os
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from executor.pods.launcher import LaunchError

pytestmark = [
    pytest.mark.root,
    pytest.mark.timeout(300),
    pytest.mark.xdist_group("machines"),
    pytest.mark.asyncio(loop_scope="module"),
]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def machine(start: Any, tmp_path_factory: pytest.TempPathFactory) -> Any:
    made = await start({})
    made.host_directory = tmp_path_factory.mktemp("host")
    (made.host_directory / "given").mkdir()
    (made.host_directory / "beside").write_text("not to be seen\n")
    (made.host_directory / "file").write_text("a file\n")
    made.manifest = json.loads((made.directory / "pod").read_text())
    return made


def put(machine: Any, apps: dict[str, dict[str, Any]], volumes: list[dict[str, Any]]) -> None:
    """Let the manifest of the pod be another, as its process does (executor/rkt/mutable.py)."""
    entries = []
    for name, app in apps.items():
        (machine.directory / "appsinfo" / name).mkdir(parents=True, exist_ok=True)
        lowers = "".join(f"{layer}\n" for layer in machine.layers)
        (machine.directory / "appsinfo" / name / "lower").write_text(lowers)
        mounts = app.get("mounts", [])
        body = {key: value for key, value in app.items() if key != "mounts"}
        entries.append({"name": name, "app": {"user": "0", "group": "0", **body}, "mounts": mounts})
    new = {**machine.manifest, "apps": entries, "volumes": volumes}
    (machine.directory / "pod").write_text(json.dumps(new))


def shown(machine: Any) -> list[str]:
    """What virtiofsd has mounted for images and volumes."""
    found = []
    for process in Path("/proc").iterdir():
        if process.name.isdecimal():
            try:
                if b"virtiofsd" not in (process / "cmdline").read_bytes():
                    continue
                text = (process / "mountinfo").read_text()
            except OSError:
                continue
            if str(machine.directory) in text:
                points = {line.split()[4] for line in text.splitlines()}
                found = sorted(one for one in points if one.startswith(("/images/", "/volumes/")))
    return found


SEES = "cat /host/* /file; echo $AC_APP_NAME > /mine/x; cat /mine/x /replaced/*; ls /host; touch /host/new"
MORE = "cat /share/x; ls /host"


async def test_apps_come_and_go(machine: Any) -> None:
    host: Path = machine.host_directory
    (host / "given" / "x").write_text("given\n")
    volumes = [
        {"name": "host", "kind": "host", "source": str(host)},
        {"name": "file", "kind": "host", "source": str(host / "file")},
        {"name": "one-mine", "kind": "empty"},
    ]
    part = {"volume": "host", "path": "/host", "gantry.io/sub-path": "given"}
    one = {
        "exec": ["sh", "-c", SEES],
        "mounts": [part, {"volume": "one-mine", "path": "/mine"}, {"volume": "file", "path": "/file"}],
    }
    put(machine, {"one": one}, volumes)
    await machine.sandbox.update()
    ended, output = await machine.run("one")
    assert (ended.exit_code, output) == (0, "given\na file\none\nnew\nx\n")
    assert (host / "given" / "new").exists()
    assert (machine.directory / "sharedVolumes" / "one-mine" / "x").read_text() == "one\n"
    assert len(shown(machine)) == 4

    two = {"exec": ["sh", "-c", MORE], "mounts": [{**part, "readOnly": True}, {**part, "path": "/share"}]}
    put(machine, {"one": one, "two": two}, volumes)
    await machine.sandbox.update()
    assert (await machine.run("two"))[1] == "given\nnew\nx\n"
    await machine.sandbox.remove_app("one")
    put(machine, {"two": two}, volumes[:1])
    await machine.sandbox.update()
    assert [point.split(".")[0] for point in shown(machine)] == ["/images/two", "/volumes/host"]
    with pytest.raises(LaunchError, match="no such app"):
        await machine.run("one")
    await machine.sandbox.remove_app("two")
    put(machine, {}, [])
    await machine.sandbox.update()
    assert shown(machine) == []


@pytest.mark.parametrize(
    ("app", "volume", "what"),
    [
        (
            {"isolators": [{"name": "resource/memory", "value": {"limit": "2Gi"}}]},
            {},
            "the machine has 512 MiB",
        ),
        ({}, {"kind": "empty", "gantry.io/medium": "Memory"}, "made when the pod starts"),
        ({}, {"kind": "host", "source": "/nowhere"}, "/nowhere: No such file"),
        ({"user": "70000"}, {}, "user or group 70000"),
    ],
    ids=["memory", "volume", "nowhere", "user"],
)
async def test_what_cannot_come_later_is_said_and_changes_nothing(
    machine: Any, app: dict[str, Any], volume: dict[str, Any], what: str
) -> None:
    mounts = [{"volume": "v", "path": "/v"}] if volume else []
    put(
        machine,
        {"app": {"exec": ["true"], "mounts": mounts, **app}},
        [{"name": "v", **volume}] if volume else [],
    )
    with pytest.raises(LaunchError, match=what):
        await machine.sandbox.update()
    assert shown(machine) == []
    put(machine, {}, [])
    await machine.sandbox.update()


async def test_nothing_is_left(machine: Any, leftovers: Any) -> None:
    """Last: it ends the machine."""
    await machine.sandbox.stop()
    assert leftovers(machine.directory) == []
    assert not [
        line
        for line in Path("/proc/self/mountinfo").read_text().splitlines()
        if str(machine.directory) in line
    ]
    assert os.listdir(machine.host_directory / "given")
