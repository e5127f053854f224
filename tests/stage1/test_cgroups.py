"""Where cgroups are and what is written to them, on plain directory trees."""

import fcntl
import os
import signal
import subprocess
import uuid
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import pytest

from executor.stage1 import cgroups, strays
from executor.stage1.cgroup_spares import Spares
from executor.stage1.cgroups import CgroupError, Layout, PodCgroup
from executor.stage1.manifest import Limits
from tests.waiting import until

V1_OWN = "9:name=systemd:/\n6:freezer:/mesos/c1\n4:memory:/mesos/c1\n2:cpu,cpuacct:/mesos/c1\n0::/\n"
V1_MOUNTS = """\
30 20 0:26 / /sys/fs/cgroup rw - tmpfs tmpfs rw,mode=755
31 30 0:27 / /sys/fs/cgroup/cpu,cpuacct rw,nosuid shared:9 - cgroup cgroup rw,cpu,cpuacct
32 30 0:28 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory
33 30 0:29 / /sys/fs/cgroup/freezer rw - cgroup cgroup rw,freezer
34 30 0:30 / /sys/fs/cgroup/blkio rw - cgroup cgroup rw,blkio
35 30 0:31 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw
"""
V2_MOUNTS = "30 20 0:26 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate\n"


def test_v1_goes_below_the_executor_s_own_cgroup() -> None:
    layout = cgroups.detect(V1_OWN, V1_MOUNTS)
    both = "/sys/fs/cgroup/cpu,cpuacct/mesos/c1"
    assert layout == Layout(
        1,
        {
            "memory": "/sys/fs/cgroup/memory/mesos/c1",
            "freezer": "/sys/fs/cgroup/freezer/mesos/c1",
            "cpu": both,
            "cpuacct": both,
        },
    )
    assert len(layout.roots) == 3


def test_v1_in_a_container_that_sees_a_part_of_the_hierarchy() -> None:
    mounts = "32 30 0:28 /mesos /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n"
    assert cgroups.detect("4:memory:/mesos/c1\n", mounts).base == {"memory": "/sys/fs/cgroup/memory/c1"}
    assert cgroups.detect("4:memory:/other\n", mounts).base == {"memory": "/sys/fs/cgroup/memory"}


def test_v2_goes_beside_the_agent_s_tree_never_below() -> None:
    layout = cgroups.detect("0::/mesos/c1/leaf\n", V2_MOUNTS)
    assert layout == Layout(2, {"": "/sys/fs/cgroup/gantry"})


def test_none() -> None:
    with pytest.raises(CgroupError, match="no cgroup hierarchy is mounted: mount"):
        cgroups.detect("", "")


@pytest.mark.parametrize(
    ("limits", "v1", "v2"),
    [
        (Limits(), {}, {}),
        (Limits(cpu_request_milli=1000), {"cpu.shares": "1024"}, {"cpu.weight": "39"}),
        (Limits(cpu_request_milli=1), {"cpu.shares": "2"}, {"cpu.weight": "1"}),
        (Limits(cpu_request_milli=10**6), {"cpu.shares": "262144"}, {"cpu.weight": "10000"}),
        (Limits(cpu_limit_milli=1), {"cpu.cfs_quota_us": "1000"}, {"cpu.max": "1000 100000"}),
        (Limits(cpu_limit_milli=33), {"cpu.cfs_quota_us": "3300"}, {"cpu.max": "3300 100000"}),
        (Limits(memory_limit=5), {"memory.limit_in_bytes": "5"}, {"memory.max": "5"}),
    ],
)
def test_limits(limits: Limits, v1: dict[str, str], v2: dict[str, str]) -> None:
    assert {file: value for _, file, value in cgroups.limit_writes(1, limits)} == v1
    assert {file: value for _, file, value in cgroups.limit_writes(2, limits)} == v2


def fake_v1(base: Path) -> Layout:
    layout = Layout(1, {name: str(base / name / "own") for name in ("memory", "cpu")})
    for root in layout.roots:
        os.makedirs(root)
    return layout


def test_v1_only_where_something_is_limited(tmp_path: Path) -> None:
    layout = fake_v1(tmp_path)
    pod = PodCgroup(layout, "u1", without=("cpu",))
    pod.create()
    pod.create_app("a", Limits())
    assert pod.app_members("a") == (f"{tmp_path}/memory/own/gantry.u1/a/tasks",)
    assert not (tmp_path / "cpu/own/gantry.u1").exists()
    pod.extend(without=())
    pod.create_app("b", Limits())
    assert (tmp_path / "cpu/own/gantry.u1/b").is_dir()
    assert list(cgroups.leftovers(layout)) == []
    pod.extend(without=("cpu",))  # what is there stays
    assert pod.remove()
    assert not list(tmp_path.rglob("gantry.u1"))


def test_v1_tree(tmp_path: Path) -> None:
    pod = PodCgroup(fake_v1(tmp_path), "u1")
    pod.create()
    pod.create_app("a", Limits())
    assert pod.init_members() == tuple(f"{tmp_path}/{name}/own/gantry.u1/tasks" for name in ("memory", "cpu"))
    assert pod.app_members("a") == tuple(
        f"{tmp_path}/{name}/own/gantry.u1/a/tasks" for name in ("memory", "cpu")
    )
    (tmp_path / "memory/own/gantry.u1/a/memory.limit_in_bytes").touch()
    pod.create_app("a", Limits(memory_limit=7))
    assert (tmp_path / "memory/own/gantry.u1/a/memory.limit_in_bytes").read_text() == "7"
    with pytest.raises(
        CgroupError, match=r"limit cpu.shares=1024: the cgroup controller cpu is not available here"
    ):
        pod.create_app("a", Limits(cpu_request_milli=1000))
    (tmp_path / "memory/own/gantry.u1/a/memory.limit_in_bytes").unlink()
    (tmp_path / "memory/own/gantry.u1/a/memory.oom_control").write_text(
        "oom_kill_disable 0\nunder_oom 0\noom_kill 3\n"
    )
    assert pod.oom_kills("a") == 3
    assert pod.oom_kills("other") == 0


def test_v1_an_app_that_is_alone_has_directories_only_where_they_are_of_use(tmp_path: Path) -> None:
    layout = Layout(1, {name: str(tmp_path / name) for name in ("memory", "freezer", "cpu")})
    for root in layout.roots:
        os.makedirs(root)
    pod = PodCgroup(layout, "u1")
    pod.create()
    pod.create_app("a", Limits(), alone=True)
    memory, freezer, cpu = (f"{root}/gantry.u1" for root in layout.roots)
    assert pod.app_members("a") == (f"{memory}/a/tasks", f"{freezer}/a/tasks", f"{cpu}/tasks")
    assert not os.path.exists(f"{cpu}/a")
    pod.create_app("b", Limits())
    assert pod.app_members("b") == (f"{memory}/b/tasks", f"{freezer}/b/tasks", f"{cpu}/b/tasks")
    assert pod.app_members("a")[2] == f"{cpu}/tasks"
    limited = PodCgroup(layout, "u2")
    limited.place("a", Limits(cpu_request_milli=1000), alone=True)
    assert limited.app_members("a")[2] == f"{layout.base['cpu']}/gantry.u2/a/tasks"
    assert pod.remove()
    assert [os.listdir(root) for root in layout.roots] == [[], [], []]


def test_v1_apps_apart_from_their_pod(tmp_path: Path) -> None:
    """Where no limit is for all of them; what they have there is held as the pod's directories are."""
    layout = Layout(1, {name: str(tmp_path / name) for name in ("memory", "freezer", "cpu")})
    for root in layout.roots:
        os.makedirs(root)
    pod = PodCgroup(layout, "u1", apart=True)
    pod.create()
    memory, freezer, cpu = layout.roots
    assert [os.listdir(root) for root in layout.roots] == [[], [], ["gantry.u1"]]
    for name, alone in (("a", True), ("b", False)):
        pod.create_app(name, Limits(), alone=alone)
    assert pod.app_members("a") == (
        f"{memory}/gantry.u1~a/tasks",
        f"{freezer}/gantry.u1~a/tasks",
        f"{cpu}/gantry.u1/tasks",
    )
    assert pod.app_members("b")[1:] == (f"{freezer}/gantry.u1~b/tasks", f"{cpu}/gantry.u1/b/tasks")
    assert leftovers(layout) == []
    busy = tmp_path / "memory/gantry.u1~b/cgroup.procs"
    busy.touch()
    assert pod.kill("a")
    assert sorted(os.listdir(memory)) == ["gantry.u1~b"]
    pod.renew("a")
    assert leftovers(layout) == []
    assert pod.kill(), "there is none that it could kill"
    assert not pod.remove()
    busy.unlink()
    assert pod.remove("b")
    assert [os.listdir(root) for root in layout.roots] == [[], ["gantry.u1~a"], ["gantry.u1"]]
    assert pod.remove()
    assert [os.listdir(root) for root in layout.roots] == [[], [], []]
    both = Layout(1, {"memory": memory, "freezer": freezer})
    assert PodCgroup(both, "u2", apart=True).directories == (f"{memory}/gantry.u2", f"{freezer}/gantry.u2")


def test_v1_an_app_of_which_nobody_is_left(tmp_path: Path) -> None:
    """The directory that tells whether somebody is there has gone then, until the next start; what counts is new."""
    layout = Layout(1, {name: str(tmp_path / name) for name in ("memory", "freezer")})
    for root in layout.roots:
        os.makedirs(root)
    pod = PodCgroup(layout, "u1")
    pod.create()
    pod.create_app("a", Limits())
    place, busy = tmp_path / "memory/gantry.u1/a", tmp_path / "memory/gantry.u1/a/cgroup.procs"
    assert pod.oom_kills_before("a") == 0
    (place / "memory.oom_control").write_text("oom_kill 2\n")
    assert pod.oom_kills_before("a") == pod.oom_kills("a") == 2
    (place / "memory.oom_control").unlink()
    for _ in range(2):
        busy.touch()  # rmdir of a cgroup with processes fails as this does
        assert pod.kill("a"), "there is none that it could kill"
        assert busy.exists()
        busy.unlink()
        assert pod.kill("a")
        assert not place.exists()
        assert pod.kill("a")
        assert pod.oom_kills_before("a") == 0
        pod.renew("a")
        assert place.exists()
    assert pod.kill("a")
    assert pod.remove()
    assert [os.listdir(root) for root in layout.roots] == [[], []]


@pytest.fixture
def v1(tmp_path: Path) -> Layout:
    """Of the four hierarchies one is for two controllers."""
    places = {"memory": "memory", "freezer": "freezer", "cpu": "cpu", "pids": "more", "blkio": "more"}
    layout = Layout(1, {name: str(tmp_path / place) for name, place in places.items()})
    for root in layout.roots:
        os.makedirs(root)
    return layout


def inodes(layout: Layout) -> dict[str, set[int]]:
    return {name: {one.inode() for one in os.scandir(root)} for name, root in layout.base.items()}


def names(layout: Layout) -> list[str]:
    return sorted(name for root in layout.roots for name in os.listdir(root))


def test_v1_cgroups_go_to_the_next_pod(v1: Layout) -> None:
    spares = Spares(v1, 1)
    seen = []
    for name in ("u1", "u2"):
        pod = PodCgroup(v1, name, apart=True, without=("blkio",), spares=spares)
        pod.create()
        pod.create_app("a", Limits(), alone=True)
        assert names(v1) == [f"gantry.{name}", f"gantry.{name}", f"gantry.{name}~a", f"gantry.{name}~a"]
        seen.append(inodes(v1))
        assert leftovers(v1) == []
        assert pod.kill("a")
        assert pod.remove()
        assert [one.startswith("gantry.~") for one in names(v1)] == [True, True], "of cpu and of the freezer"
        assert leftovers(v1) == [], "somebody holds them, as if they were a pod's"
        assert pod.remove()
    first, second = seen
    assert (first["cpu"], first["freezer"]) == (second["cpu"], second["freezer"])
    spares.remove()
    assert names(v1) == []


def test_v1_cgroups_that_go_to_nobody(v1: Layout) -> None:
    """Those with limits, those that somebody may still be in, those that are too many, and those of v2."""
    (Path(v1.base["cpu"]) / "gantry.u1/a").mkdir(parents=True)
    for name in ("gantry.u1", "gantry.u1/a"):
        (Path(v1.base["cpu"]) / name / "cpu.shares").touch()
    spares = Spares(v1, 1)
    pod = PodCgroup(v1, "u1", apart=True, spares=spares)
    pod.create()
    pod.limit(Limits(cpu_shares=2))
    pod.create_app("a", Limits(cpu_shares=2))
    busy = Path(v1.base["memory"], "gantry.u1~a/cgroup.procs")
    busy.touch()
    assert not pod.remove()
    assert "gantry.u1~a" in os.listdir(v1.base["freezer"])
    busy.unlink()
    for name in ("gantry.u1", "gantry.u1/a"):
        (Path(v1.base["cpu"]) / name / "cpu.shares").unlink()
    assert pod.remove()
    assert os.listdir(v1.base["cpu"]) == []
    assert [one.startswith("gantry.~") for one in names(v1)] == [True]
    pods = [PodCgroup(v1, name, apart=True, spares=spares) for name in ("u2", "u3")]
    for pod in pods:
        pod.create()
        pod.create_app("a", Limits())
    assert [pod.remove() for pod in pods] == [True, True]
    assert [len(os.listdir(v1.base[name])) for name in ("freezer", "cpu")] == [1, 1]
    spares.remove()
    assert names(v1) == []


def test_v1_a_spare_cgroup_that_somebody_has_removed(v1: Layout) -> None:
    spares = Spares(v1, 1)
    for name in ("u1", "u2"):
        pod = PodCgroup(v1, name, apart=True, spares=spares)
        pod.create()
        pod.create_app("a", Limits())
        assert leftovers(v1) == []
        assert pod.remove()
        for root in v1.roots:
            for path in Path(root).iterdir():
                path.rmdir()
    spares.remove()


def test_removal_is_idempotent_and_says_when_to_try_again(tmp_path: Path) -> None:
    pod = PodCgroup(fake_v1(tmp_path), "u1")
    pod.create()
    pod.create_app("a", Limits())
    busy = tmp_path / "cpu/own/gantry.u1/a/process"
    busy.touch()  # rmdir of a cgroup with processes fails as this does
    assert not pod.remove("a")
    assert not (tmp_path / "memory/own/gantry.u1/a").exists()
    busy.unlink()
    assert pod.remove("a")
    assert pod.remove()
    assert pod.remove()
    assert os.listdir(tmp_path / "cpu/own") == []


CONTROL_FILES = (
    "cgroup.procs cgroup.subtree_control cpu.max cpu.weight io.max memory.max memory.oom.group memory.swap.max "
    "pids.max"
)


def fake_v2(base: Path, without: str = "") -> Layout:
    """The control files that a kernel would make with each directory."""
    for directory in (base, base / "gantry", base / "gantry/gantry.u1", base / "gantry/gantry.u1/a"):
        directory.mkdir(parents=True, exist_ok=True)
        (directory / "cgroup.controllers").write_text("cpuset cpu io memory pids\n")
        for name in CONTROL_FILES.split():
            if name != without:
                (directory / name).touch()
    return Layout(2, {"": str(base / "gantry")})


def test_v2_tree(tmp_path: Path) -> None:
    pod = PodCgroup(fake_v2(tmp_path), "u1")
    pod.create()
    for directory in ("", "gantry", "gantry/gantry.u1"):
        assert (tmp_path / directory / "cgroup.subtree_control").read_text() == "+cpu +memory +pids +io"
    pod.create_app("a", Limits(1000, 500, 9))
    app = tmp_path / "gantry/gantry.u1/a"
    assert {name: (app / name).read_text() for name in ("cpu.max", "memory.max", "cpu.weight")} == {
        "cpu.max": "50000 100000",
        "memory.max": "9",
        "cpu.weight": "39",
    }
    # Processes live in leaves only.
    assert pod.init_members() == (f"{tmp_path}/gantry/gantry.u1/.init/cgroup.procs",)
    assert pod.app_members("a") == (f"{app}/cgroup.procs",)
    (app / "memory.events").write_text("low 0\noom 4\noom_kill 2\n")
    assert pod.oom_kills("a") == 2


EVERYTHING = Limits(
    cpu_request_milli=500,
    cpu_limit_milli=1500,
    memory_limit=64 << 20,
    pids=32,
    block_bandwidth=1 << 20,
    block_iops=50,
)


def test_v2_every_limit_in_its_file(tmp_path: Path) -> None:
    """As the kubelet and crun write them: shares 512 are weight 20, 1.5 cpus are 150 ms of 100."""
    pod = PodCgroup(fake_v2(tmp_path), "u1", disk="8:0")
    pod.create()
    pod.create_app("a", EVERYTHING)
    app = tmp_path / "gantry/gantry.u1/a"
    written = {name: text for name in CONTROL_FILES.split() if (text := (app / name).read_text())}
    assert written == {
        "cpu.weight": "20",
        "cpu.max": "150000 100000",
        "memory.max": str(64 << 20),
        "memory.swap.max": "0",
        "memory.oom.group": "1",
        "pids.max": "32",
        "io.max": "8:0 rbps=1048576 wbps=1048576 riops=50 wiops=50",
    }
    pod.limit(Limits(memory_limit=1 << 30, pids=4096))
    assert (app.parent / "memory.max").read_text() == str(1 << 30)
    assert (app.parent / "memory.swap.max").read_text() == "0"
    assert (app.parent / "memory.oom.group").read_text() == "", "one app's end is not its neighbours'"


@pytest.mark.parametrize(
    ("shares", "weight"), [(2, 1), (10, 1), (102, 4), (1024, 39), (4096, 157), (262_144, 10_000)]
)
def test_v2_weights_are_the_kubelet_s(shares: int, weight: int) -> None:
    """`1 + ((shares - 2) * 9999) / 262142`: cgroup_manager_linux.go, getCPUWeight."""
    assert cgroups.limit_writes(2, Limits(cpu_shares=shares)) == [("cpu", "cpu.weight", str(weight))]


@pytest.mark.parametrize(
    ("file", "controller"),
    [("cpu.max", "cpu"), ("memory.max", "memory"), ("pids.max", "pids"), ("io.max", "io")],
)
def test_v2_a_controller_that_was_not_passed_down(tmp_path: Path, file: str, controller: str) -> None:
    pod = PodCgroup(fake_v2(tmp_path, without=file), "u1", disk="8:0")
    pod.create()
    with pytest.raises(
        CgroupError, match=f"limit {file}=.*: the cgroup controller {controller} is not available"
    ):
        pod.create_app("a", EVERYTHING)


@pytest.mark.parametrize("file", ["memory.swap.max", "memory.oom.group"])
def test_v2_what_a_kernel_may_lack(tmp_path: Path, file: str) -> None:
    pod = PodCgroup(fake_v2(tmp_path, without=file), "u1", disk="8:0")
    pod.create()
    pod.create_app("a", EVERYTHING)
    assert not (tmp_path / "gantry/gantry.u1/a" / file).exists()


def test_v2_a_root_that_passes_nothing_down(tmp_path: Path) -> None:
    """As in a container, whose root has processes: what is missing is said by whoever needs it."""
    layout = fake_v2(tmp_path)
    (tmp_path / "cgroup.subtree_control").unlink()
    (tmp_path / "cgroup.subtree_control").mkdir()
    PodCgroup(layout, "u1").create()


def test_v1_a_limit_of_memory_is_one_of_swap(tmp_path: Path) -> None:
    pod = PodCgroup(fake_v1(tmp_path), "u1")
    pod.create()
    pod.create_app("a", Limits())
    app = tmp_path / "memory/own/gantry.u1/a"
    (app / "memory.limit_in_bytes").touch()
    pod.limit(Limits(memory_limit=7), "a")
    (app / "memory.memsw.limit_in_bytes").touch()
    pod.limit(Limits(memory_limit=9), "a")
    assert [(app / f"memory.{name}").read_text() for name in ("limit_in_bytes", "memsw.limit_in_bytes")] == [
        "9",
        "9",
    ]


def test_v2_kill_before_linux_5_14(tmp_path: Path) -> None:
    """One by one, and frozen meanwhile."""
    fake_v2(tmp_path)
    app = tmp_path / "gantry/gantry.u1/a"
    (app / "cgroup.freeze").touch()
    process = subprocess.Popen(["sleep", "1000"])
    (app / "cgroup.procs").write_text(f"{process.pid}\n")
    assert not cgroups.kill_tree(str(app), 2)
    assert process.wait() == -signal.SIGKILL
    assert (app / "cgroup.freeze").read_text() == "0"


def test_v2_kill_uses_the_kernel_s(tmp_path: Path) -> None:
    pod = PodCgroup(fake_v2(tmp_path), "u1")
    app = tmp_path / "gantry/gantry.u1/a"
    (app / "cgroup.kill").touch()
    assert pod.kill("a")
    assert (app / "cgroup.kill").read_text() == ""
    (app / "cgroup.procs").write_text("123\n")
    assert not pod.kill("a")
    assert (app / "cgroup.kill").read_text() == "1"


def leftovers(layout: Layout) -> list[str]:
    """Their names; they are let go."""
    found = cgroups.leftovers(layout)
    for fd in found.values():
        os.close(fd)
    return sorted(found)


def test_leftovers_are_pods_that_nobody_holds(tmp_path: Path) -> None:
    layout = fake_v1(tmp_path)
    live = PodCgroup(layout, "live")
    live.create()
    for name in ("memory", "cpu"):
        (tmp_path / name / "own/gantry.dead").mkdir()
    (tmp_path / "memory/own/other").mkdir()
    (tmp_path / "cpu/own/gantry.half").mkdir()
    (tmp_path / "memory/own/gantry.elsewhere").mkdir()
    expected = [
        "memory/own/gantry.dead",
        "memory/own/gantry.elsewhere",
        "cpu/own/gantry.dead",
        "cpu/own/gantry.half",
    ]
    assert leftovers(layout) == sorted(f"{tmp_path}/{path}" for path in expected)


def test_pods_of_an_executor_that_shares_only_some_hierarchies_are_not_leftovers(tmp_path: Path) -> None:
    """An agent nests its executors in the controllers it limits; in the others they are neighbours."""
    ours = fake_v1(tmp_path)
    theirs = Layout(1, {"memory": str(tmp_path / "memory/own/executor"), "cpu": ours.base["cpu"]})
    os.makedirs(theirs.base["memory"])
    pod = PodCgroup(theirs, "live")
    pod.create()
    assert leftovers(ours) == []
    assert pod.remove()
    (tmp_path / "cpu/own/gantry.live").mkdir()
    assert leftovers(ours) == [f"{tmp_path}/cpu/own/gantry.live"]


def test_creators_and_collectors_exclude_one_another(tmp_path: Path) -> None:
    layout = fake_v1(tmp_path)
    first, second = (cgroups.Lock(layout, exclusive=False) for _ in range(2))
    with pytest.raises(CgroupError, match="another executor has the lock of"):
        cgroups.Lock(layout, exclusive=True, seconds=0.0)
    first.release()
    second.release()
    cgroups.Lock(layout, exclusive=True, seconds=0.0).release()


def test_what_is_being_collected_is_made_again_when_it_has_gone(tmp_path: Path) -> None:
    """Killing what is in it takes time, and meanwhile pods of other names are made."""
    layout = fake_v1(tmp_path)
    for name in ("memory", "cpu"):
        (tmp_path / name / "own/gantry.u1").mkdir()
    held = cgroups.leftovers(layout)
    assert leftovers(layout) == []
    PodCgroup(layout, "u2").create()
    before = [os.stat(path).st_ino for path in held]
    with ThreadPoolExecutor(1) as thread:
        again = PodCgroup(layout, "u1")
        made = thread.submit(again.create)
        for path, fd in held.items():
            os.rename(path, f"{path}.gone")
            os.close(fd)
        made.result(60)
    assert [os.stat(path).st_ino for path in held] != before
    assert leftovers(layout) == [f"{tmp_path}/{name}/own/gantry.u1.gone" for name in ("cpu", "memory")]


@pytest.mark.root
def test_limits_go_up_and_down(request: pytest.FixtureRequest) -> None:
    """In the hierarchies of this machine: swap's limit, which follows, is in the way of neither."""
    layout = cgroups.detect(Path("/proc/self/cgroup").read_text(), Path("/proc/self/mountinfo").read_text())
    if layout.version != 1 or "memory" not in layout.base:
        pytest.skip("no memory controller of v1")
    pod = PodCgroup(layout, f"test-{uuid.uuid4()}")
    request.addfinalizer(pod.remove)
    pod.create()
    place = Path(layout.base["memory"], pod.name, "a")
    for size in (64 << 20, 128 << 20, 32 << 20):
        pod.create_app("a", Limits(memory_limit=size))
        assert (place / "memory.limit_in_bytes").read_text() == f"{size}\n"
        if (place / "memory.memsw.limit_in_bytes").exists():
            assert (place / "memory.memsw.limit_in_bytes").read_text() == f"{size}\n"


@pytest.mark.root
def test_strays_are_found_by_their_pods_names(request: pytest.FixtureRequest) -> None:
    """Those of apps that lie beside a pod's, too."""
    layout = cgroups.detect(Path("/proc/self/cgroup").read_text(), Path("/proc/self/mountinfo").read_text())
    if "freezer" not in layout.base:
        pytest.skip("no freezer of v1")
    pod = f"test-{uuid.uuid4()}"
    places = [Path(layout.base["freezer"], f"gantry.{pod}{more}") for more in ("", "~app", "-2")]
    for place in places:
        request.addfinalizer(partial(cgroups.remove_tree, str(place)))
        place.mkdir()
    held = os.open(places[2], os.O_RDONLY)  # or a launcher that starts meanwhile collects it
    request.addfinalizer(lambda: os.close(held))
    fcntl.flock(held, fcntl.LOCK_SH)
    assert strays.sweep([pod]) == []
    assert [place.exists() for place in places] == [False, False, True]


@pytest.mark.root
def test_what_somebody_froze_who_was_killed_then_is_killed_all_the_same() -> None:
    """v1: a process that is frozen dies when it is thawed; here it is the cgroup below that holds it."""
    layout = cgroups.detect(Path("/proc/self/cgroup").read_text(), Path("/proc/self/mountinfo").read_text())
    if layout.version == 2 or "freezer" not in layout.base:
        pytest.skip("no freezer of v1")
    pod = Path(layout.base["freezer"], f"gantry.frozen-{os.getpid()}")
    app = pod / "app"
    process = subprocess.Popen(["sleep", "1000"])
    try:
        app.mkdir(parents=True)
        (app / "cgroup.procs").write_text(f"{process.pid}\n")
        (app / "freezer.state").write_text("FROZEN")
        process.kill()
        until("it to be gone", lambda: cgroups.kill_tree(str(pod), 1))
        assert process.wait() == -signal.SIGKILL
    finally:
        (app / "freezer.state").write_text("THAWED")
        process.kill()
        process.wait()
        until("its cgroups to go", lambda: cgroups.remove_tree(str(pod)))
