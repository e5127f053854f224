"""Lists that make an app's root: what they leave behind, when they are refused, and what then happens instead."""

import os
from pathlib import Path
from typing import Any

import pytest

from executor.stage1 import machine, ops
from executor.stage1.machine.tree import Refused, Trees, divide

pytestmark = pytest.mark.root


@pytest.fixture
def native() -> machine.Machine:
    """What executes lists in this process."""
    found = machine.get()
    if found is None:
        pytest.skip("no lists for this machine")
    return found


def takes(*paths: Path) -> list[Any]:
    return ops.pack([ops.TakeTree(f"tree {number}", str(path)) for number, path in enumerate(paths)])


def execute(trees: Trees, plan: list[Any], context: ops.Context) -> None:
    trees.execute(plan, divide(plan)[1], context)


def test_descriptors_are_known_by_their_names(native: machine.Machine, tmp_path: Path) -> None:
    """The second time the same list, with other paths in it."""
    trees = Trees(native.function, takes(*[Path("/")] * 5), {})
    for turn in ("one", "another one, that is longer"):
        paths = [tmp_path / f"{turn} {number}" for number in range(5)]
        for path in paths:
            path.mkdir()
        context = ops.Context({"mine": 0})
        execute(trees, takes(*paths), context)
        try:
            assert context.fds.pop("mine") == 0
            found = [os.fstat(context.fds[f"tree {number}"]).st_ino for number in range(5)]
            assert found == [path.stat().st_ino for path in paths]
        finally:
            for fd in context.fds.values():
                os.close(fd)


@pytest.mark.parametrize("path", ["missing", "x" * 2000, "a\0b"])
def test_what_fails_is_refused(native: machine.Machine, tmp_path: Path, path: str) -> None:
    before = os.listdir("/proc/self/fd")
    plan = takes(*(tmp_path / path,) * 5)
    with pytest.raises(Refused):
        execute(Trees(native.function, plan, {}), plan, ops.Context({}))
    assert os.listdir("/proc/self/fd") == before


def test_few_are_executed_one_by_one_and_say_what_is_wrong(native: machine.Machine, tmp_path: Path) -> None:
    plan = takes(tmp_path / "missing")
    with pytest.raises(ops.StageError, match="missing as tree 0: No such file"):
        execute(Trees(native.function, plan, {}), plan, ops.Context({}))


def test_what_one_process_does_not_do_is_left_out(native: machine.Machine, tmp_path: Path) -> None:
    paths = [tmp_path / str(number) for number in range(8)]
    for path in paths:
        path.mkdir()
    plan = takes(*paths)
    other = ops.TakeTree("other", str(tmp_path))
    context = ops.Context({})
    execute(Trees(native.function, plan, {0: None, 3: other, 7: None}), plan, context)
    try:
        assert list(context.fds) == [
            *(f"tree {number}" for number in (1, 2)),
            "other",
            "tree 4",
            "tree 5",
            "tree 6",
        ]
    finally:
        for fd in context.fds.values():
            os.close(fd)


def test_a_plan_s_shape_has_nothing_of_the_pod_s_in_it() -> None:
    def plan(pod: str, base: int) -> list[Any]:
        return ops.pack(
            [
                ops.TakeLayers("the root", ("/l1", f"/{pod}/l2"), f"/{pod}/overlay/a", "work"),
                ops.TakeVolume("volume:/v", f"/{pod}/v", "", True),
                ops.Enter("ground", 1),
                ops.ActAs(base),
                ops.MountDev(False, base),
                ops.JoinCgroup((f"/c/{pod}/tasks",), True),
            ]
        )

    (one, values), (other, others) = divide(plan("p", 70_000)), divide(plan("q", 80_000))
    assert one == other
    assert values[:5] == ["/l1", "/p/l2", "/p/overlay/a", "/p/v", 70_000]
    assert [text.replace("/p/", "/q/") for text in values if isinstance(text, str)] == [
        text for text in others if isinstance(text, str)
    ]
    assert divide(plan("p", 0))[0] != one


@pytest.mark.parametrize("odd", ["a b", "a,b", "a:b", "ü", "x" * 100, "x" * 200])
async def test_paths_of_any_kind(runner: Any, tmp_path: Path, odd: str) -> None:
    """What a list cannot have in it is done without."""
    layer = tmp_path / odd / odd / odd / odd / odd
    (layer / "here").mkdir(parents=True)
    app = runner.pods.app("/bin/sh", "-c", "ls -d /here; ls /dev | tr '\\n' ' '; cat /etc/hostname")
    running = await runner.pod(runner.pods.make(app, layers=(layer,)))
    _, output = await running.start()
    await running.ended()
    devices = "console fd full mqueue null ptmx pts random shm stderr stdin stdout tty urandom zero"
    assert (await output.text()).splitlines() == ["/here", f"{devices} pod-host"]


async def test_an_image_without_anything_to_mount_on(runner: Any, tmp_path: Path) -> None:
    """A list is refused, and the places are made: also for the next app, by the same process."""
    layer = tmp_path / "layer"
    for name in ("proc", "sys", "dev", "etc"):
        (layer / name).mkdir(parents=True)
        os.setxattr(layer / name, "trusted.overlay.opaque", b"y")
    for _ in range(2):
        app = runner.pods.app("/bin/sh", "-c", "cat /etc/hostname; grep -c . /proc/mounts; id -u")
        running = await runner.pod(runner.pods.make(app, layers=(layer,)))
        _, output = await running.start()
        assert (await running.ended()).exit_code == 0
        said = (await output.text()).splitlines()
        assert (said[0], said[2]) == ("pod-host", "0")
        assert os.listdir(running.directory / "overlay/app/upper") == ["etc"]


@pytest.mark.parametrize("count", [16, 17, 18, 60, 498])
@pytest.mark.parametrize("users", ["private", "host"])
async def test_any_number_of_layers(runner: Any, tmp_path: Path, count: int, users: str) -> None:
    layers = tuple(tmp_path / "layers" / str(number) for number in range(count))
    for number, layer in enumerate(layers):
        layer.mkdir(parents=True)
        (layer / f"of-{number}").touch()
        (layer / "which").write_text(f"{number}\n")
    app = runner.pods.app("/bin/sh", "-c", "cat /which; ls / | grep -c ^of-; mkdir /new && id -u")
    running = await runner.pod(runner.pods.make(app, layers=layers, user_namespace=users))
    _, output = await running.start()
    await running.ended()
    assert (await output.text()).splitlines() == ["0", str(count), "0"]
    assert "new" in os.listdir(running.directory / "overlay/app/upper")


async def test_volumes_of_many_layers(runner: Any, tmp_path: Path) -> None:
    layers = [tmp_path / "layers" / str(number) for number in range(40)]
    for number, layer in enumerate(layers):
        layer.mkdir(parents=True)
        (layer / str(number)).touch()
    volumes = [
        {
            "name": name,
            "kind": "host",
            "source": str(some[0]),
            "readOnly": True,
            "gantry.io/layers": [*map(str, some)],
        }
        for name, some in (("one", layers), ("other", layers[:3]))
    ]
    mounts = [{"volume": name, "path": f"/{name}"} for name in ("one", "other")]
    result = await runner.sh(
        "ls /one | wc -l; ls /other; touch /one/x", mounts=mounts, pod={"volumes": volumes}
    )
    assert result.lines[:4] == ["40", "0", "1", "2"]
    assert "Read-only" in result.output


async def test_mounts_tell_of_nothing_below_the_root(runner: Any) -> None:
    result = await runner.sh("cat /proc/self/mountinfo")
    mounted = {line.split()[4]: line.split()[-1] for line in result.lines}
    assert not {"/0", "/1", "/2", "/m"} & set(mounted)
    assert "lowerdir=/0:/1" in mounted["/"]
    assert "workdir=/2/work" in mounted["/"]


@pytest.mark.parametrize("count", [3, 255, 256, 257, 600])
def test_however_many_operations(native: machine.Machine, tmp_path: Path, count: int) -> None:
    plan = takes(*[tmp_path] * count)
    context = ops.Context({})
    execute(Trees(native.function, plan, {}), plan, context)
    try:
        assert list(context.fds) == [f"tree {number}" for number in range(count)]
        assert len(set(context.fds.values())) == count
    finally:
        for fd in context.fds.values():
            os.close(fd)


async def test_an_app_with_many_volumes(runner: Any, tmp_path: Path) -> None:
    volumes = [{"name": "v", "kind": "host", "source": str(tmp_path)}]
    mounts = [{"volume": "v", "path": f"/v{number}"} for number in range(300)]
    result = await runner.sh(
        "ls -d /v* | wc -l; grep -c ' /v' /proc/self/mountinfo", mounts=mounts, pod={"volumes": volumes}
    )
    assert result.lines == ["300", "300"]
