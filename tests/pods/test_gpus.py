"""Which GPUs an executor may use, and which of them each app gets."""

import os
import stat
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from executor.pods.gpus import Devices, GpuError, Gpus, Host, allows, needed, share, wanted

GPU = "nvidia.com/gpu"
COUNTS = st.dictionaries(st.sampled_from("abcd"), st.integers(0, 4), max_size=4)
DEVICES = {"nvidia0": 3, "nvidia1": 5, "nvidia10": 7, "nvidia2": 8, "null": 3}
DEVICES |= {"nvidiactl": 3, "nvidia-uvm": 5, "nvidia-modeset": 9}
RULES = "c 1:3 rwm\nc 195:0 rwm\nc 195:255 rw\nc 240:* rwm\nb 195:1 rwm\nc 195:2 r\nc *:7 rwm\n"


def pod(*mains: int, inits: tuple[int, ...] = ()) -> dict[str, Any]:
    def containers(letter: str, counts: tuple[int, ...]) -> list[dict[str, Any]]:
        return [
            {"name": f"{letter}{n}", "resources": {"limits": {"cpu": "1", **({GPU: str(k)} if k else {})}}}
            for n, k in enumerate(counts)
        ]

    return {"spec": {"containers": containers("c", mains), "initContainers": containers("i", inits)}}


# ---- who gets which


@given(COUNTS, COUNTS)
def test_main_containers_never_share_and_nobody_gets_too_many(
    inits: dict[str, int], mains: dict[str, int]
) -> None:
    inits = {f"init-{name}": count for name, count in inits.items()}
    gpus = list(range(7, 7 + needed(inits, mains)))
    shares = share(gpus, inits, mains)
    for name, count in {**inits, **mains}.items():
        numbers = shares.get(name, ())
        assert len(numbers) == len(set(numbers)) == count
        assert set(numbers) <= set(gpus)
    used = [number for name in mains for number in shares.get(name, ())]
    assert len(used) == len(set(used))
    assert len(gpus) == max([sum(mains.values()), *inits.values()])


def test_what_a_pod_wants() -> None:
    assert wanted(pod(2, 0, 1, inits=(0, 2))) == ({"i1": 2}, {"c0": 2, "c2": 1})
    assert wanted({"spec": {"containers": [{"name": "a"}]}}) == ({}, {})


# ---- which there are


@pytest.mark.parametrize(
    ("device", "allowed"),
    [
        ((1, 3), True),
        ((195, 0), True),
        ((195, 255), True),
        ((195, 1), False),
        ((195, 2), False),
        ((240, 99), True),
        ((8, 7), True),
        ((1, 5), False),
    ],
)
def test_the_list_of_the_devices_cgroup(device: tuple[int, int], allowed: bool) -> None:
    assert allows(RULES, os.makedev(*device)) is allowed
    assert allows("a *:* rwm\n", os.makedev(*device)) is True


@pytest.fixture
def machine(tmp_path: Path) -> Host:
    """A /dev whose GPUs are all kinds of harmless devices, in a devices cgroup that allows some."""
    if os.geteuid() != 0:
        pytest.skip("making device files needs root")
    dev, cgroup, proc = tmp_path / "dev", tmp_path / "cgroup/devices/mesos/c1", tmp_path / "proc"
    for directory in (dev, cgroup, proc):
        directory.mkdir(parents=True)
    try:
        for name, minor in DEVICES.items():
            os.mknod(dev / name, stat.S_IFCHR | 0o666, os.makedev(1, minor))
    except PermissionError:
        pytest.skip("device files cannot be made here")
    (dev / "nvidia3").write_text("not a device")
    (cgroup / "devices.list").write_text("c 1:3 rwm\nc 1:5 rwm\nc 1:7 rw\n")
    (proc / "cgroup").write_text("12:pids:/x\n11:devices:/mesos/c1\n0::/\n")
    (proc / "mountinfo").write_text(
        f"25 24 0:22 / {tmp_path}/cgroup/pids rw - cgroup cgroup rw,pids\n"
        f"26 24 0:23 / {tmp_path}/cgroup/devices rw - cgroup cgroup rw,devices\n"
    )
    return Host(dev, proc)


@pytest.mark.root
def test_the_own_cgroup_says_which_may_be_used(machine: Host) -> None:
    assert machine.usable() == [0, 1, 10]
    assert machine.control() == [str(machine.devices / name) for name in ("nvidiactl", "nvidia-uvm")]


def test_a_machine_without_any(tmp_path: Path) -> None:
    assert Host(tmp_path / "nowhere").usable() == []
    with pytest.raises(GpuError, match="Requested: 1, Available: 0"):
        Gpus(Host(tmp_path), tmp_path / "locks").take("a", pod(1))


@pytest.mark.root
def test_a_hierarchy_of_which_only_a_part_is_mounted(machine: Host) -> None:
    info = machine.process / "mountinfo"
    mount = f"26 24 0:23 /mesos {machine.devices.parent}/cgroup/devices/mesos rw - cgroup cgroup rw,devices\n"
    info.write_text(mount)
    assert machine.usable() == [0, 1, 10]


@pytest.mark.root
def test_without_a_list_what_opens_may_be_used(machine: Host) -> None:
    (machine.process / "cgroup").write_text("0::/mesos/c1\n")
    os.mknod(machine.devices / "nvidia5", stat.S_IFCHR | 0o666, os.makedev(0, 0))  # no driver has it
    assert machine.usable() == [0, 1, 2, 10]


# ---- who has which


@pytest.mark.root
def test_pods_get_distinct_ones_until_they_end(machine: Host, tmp_path: Path) -> None:
    gpus = Gpus(machine, tmp_path / "locks")
    control = tuple(machine.control())
    assert gpus.take("a", pod(0)) == {}
    first = gpus.take("a", pod(1, 1))
    assert first == {
        "c0": Devices((machine.gpu(0), *control), (0,)),
        "c1": Devices((machine.gpu(1), *control), (1,)),
    }
    with pytest.raises(GpuError, match=r"Requested: 2, Available: 1, which is unexpected"):
        gpus.take("b", pod(2))
    assert gpus.take("b", pod(1, inits=(1,)))["i0"].numbers == (10,)
    gpus.release("a")
    gpus.release("a")
    assert gpus.take("c", pod(2))["c0"].numbers == (0, 1)


@pytest.mark.root
def test_executors_of_one_machine_do_not_meet(machine: Host, tmp_path: Path) -> None:
    mine, other = Gpus(machine, tmp_path / "locks"), Gpus(machine, tmp_path / "locks")
    assert mine.take("a", pod(2))["c0"].numbers == (0, 1)
    assert other.take("a", pod(1))["c0"].numbers == (10,)
    with pytest.raises(GpuError):
        other.take("b", pod(1))
    mine.release("a")
    assert other.take("b", pod(1))["c0"].numbers == (0,)


class Everybody(Host):
    """A machine that has eight GPUs and lets us use those in `open`."""

    open: frozenset[int] = frozenset(range(8))

    def usable(self) -> list[int]:
        return sorted(self.open)

    def control(self) -> list[str]:
        return []


class Sharing(RuleBasedStateMachine):
    """Pods that come and go on two executors, while the agent allows now these devices and now those."""

    def __init__(self) -> None:
        super().__init__()
        import tempfile

        self.directory = tempfile.TemporaryDirectory()
        self.hosts = [Everybody(), Everybody()]
        self.executors = [Gpus(host, Path(self.directory.name)) for host in self.hosts]
        self.pods: dict[tuple[int, str], set[int]] = {}
        self.number = 0

    @rule(where=st.integers(0, 1), mains=st.lists(st.integers(0, 3), min_size=1, max_size=3))
    def come(self, where: int, mains: list[int]) -> None:
        self.number += 1
        name, count = f"p{self.number}", sum(mains)
        taken = set().union(*self.pods.values())
        free = self.hosts[where].open - taken
        try:
            devices = self.executors[where].take(name, pod(*mains))
        except GpuError:
            assert len(free) < count
            return
        numbers = [number for one in devices.values() for number in one.numbers]
        assert len(numbers) == len(set(numbers)) == count
        assert set(numbers) <= free
        self.pods[where, name] = set(numbers)

    @precondition(lambda self: self.pods)
    @rule(data=st.data())
    def go(self, data: st.DataObject) -> None:
        where, name = data.draw(st.sampled_from(sorted(self.pods)))
        self.executors[where].release(name)
        del self.pods[where, name]

    @rule(where=st.integers(0, 1), allowed=st.frozensets(st.integers(0, 7)))
    def change(self, where: int, allowed: frozenset[int]) -> None:
        object.__setattr__(self.hosts[where], "open", allowed)

    @invariant()
    def nobody_shares(self) -> None:
        used = [number for numbers in self.pods.values() for number in numbers]
        assert len(used) == len(set(used))

    def teardown(self) -> None:
        for where, name in self.pods:
            self.executors[where].release(name)
        self.directory.cleanup()


TestSharing = Sharing.TestCase
TestSharing.settings = settings(deadline=None)
