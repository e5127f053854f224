"""Templates: which there are, the table of devices and memory; and machines that go on from one, or cannot."""

import json
import os
import struct
import sys
import time
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from executor.kvm import acpi, commands, machine, machines
from executor.kvm.boot import Boot
from executor.kvm.equipment import Equipment
from executor.kvm.machine import MIB, Size
from executor.kvm.machines import Machines
from executor.kvm.probe import Accelerator, Tools
from executor.kvm.template import Templates
from executor.network.taps import Link
from executor.pods.launcher import LaunchError
from executor.stage1 import manifest
from tests.kvm.hierarchy import processes

TCG = Accelerator("tcg", "max", 2_000_000, "there is no /dev/kvm")


def test_the_table_of_devices_is_one_that_firmware_would_give() -> None:
    table = acpi.table()
    assert table[:4] == b"SSDT"
    assert int.from_bytes(table[4:8], "little") == len(table)
    assert sum(table) % 256 == 0
    assert table.count(b"LNRO0005\0") == len(acpi.PLACES)
    last = struct.pack("<I", 0xFEB00000 + 512 * acpi.PLACES[-1])
    assert table.count(last) == 1
    assert 0 not in acpi.PLACES, "its interrupts would be lost"
    assert table.count(b"\x41\xd0\x0c\x80") == 2, "memory below and above the hole (PNP0C80)"
    assert table.count(struct.pack("<BHBBB5Q", 0x8A, 0x2B, 0, 0x0C, 3, 0, acpi.BASE_MEMORY, 0, 0, 0)) == 1
    assert table.count(struct.pack("<BHBBB5Q", 0x8A, 0x2B, 0, 0x0C, 3, 0, 1 << 32, 0, 0, 0)) == 1


def test_a_template_is_made_as_confined_as_any_machine_and_without_devices(tmp_path: Path) -> None:
    tools = Tools(Path("/usr/bin/qemu-system-x86_64"), Path("/usr/lib/qemu/virtiofsd"))
    boot, size = Boot(tmp_path / "kernel", tmp_path / "root.cpio"), Size(640 * MIB, 3, 500, 100)
    made = manifest._pod(machine.template_manifest(tools, boot, TCG, size.template))
    assert set(made.apps) == {"vm"}
    vm = made.apps["vm"]
    assert (vm.user, vm.capabilities, vm.no_new_privileges) == ("65534", frozenset(), True)
    assert all(volume.read_only and not volume.device for volume in made.volumes.values())
    assert made.limits.memory_limit == size.template.host_memory
    assert made.limits.cpu_limit_milli is None, "it is for machines of that size with any limit"
    devices = [value for option, value in pairwise(vm.exec) if option == "-device"]
    assert [one.partition(",")[0] for one in devices] == ["pcie-root-port"]
    going_on = commands.going_on(tools, TCG, size)
    for option in ("-machine", "-cpu", "-smp", "-accel"):
        assert going_on[going_on.index(option) + 1] == vm.exec[vm.exec.index(option) + 1]
    assert (vm.exec[vm.exec.index("-m") + 1], going_on[going_on.index("-m") + 1]) == ("256M", "640M")
    assert "maxcpus=3" in vm.exec[vm.exec.index("-append") + 1].split(), "for three, and for four"


def test_the_cards_of_machines_have_places_of_their_own() -> None:
    links = [Link(f"eth{at}", at, "02:00:00:00:00:01", 1500, f"tap{at}", ()) for at in range(3)]
    text = commands.network_devices(links)
    taken = [
        acpi.bus(acpi.PLACES[0]),
        *(line.split('"')[1] for line in text.splitlines() if "bus = " in line),
    ]
    assert len(set(taken)) == len(taken) == 4
    assert {*taken} <= {acpi.bus(place) for place in acpi.PLACES}


async def test_what_nobody_can_use_any_more_is_removed(tmp_path: Path) -> None:
    """When one is made, even if that fails: then such machines boot, and nothing is tried again."""
    boot_id = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    ours = [tmp_path / f"{boot_id}.{number}.1.9.template" for number in range(3)]
    for at, path in enumerate(ours):
        path.touch()
        os.utime(path, (at, at))
    for name in (
        "another-boot.0.1.9.template",
        f"{boot_id}.0.640M1.template",
    ):  # both of a former version
        (tmp_path / name).touch()
    for name, age in (("making-old", 7200), ("making-new", 0)):
        (tmp_path / name).mkdir()
        os.utime(tmp_path / name, (time.time() - age,) * 2)
    asked = 0

    async def run(*_: Any) -> Any:
        nonlocal asked
        asked += 1
        raise LaunchError("there is no room")

    tools = Tools(Path(sys.executable), Path(sys.executable))
    found = Equipment(tools, Boot(tmp_path / "kernel", tmp_path / "root"), TCG, tmp_path)
    templates = Templates(run, tmp_path, at_once=True)
    for _ in range(2):
        assert await templates.get(found, Size(64 * MIB, 1, None, 100)) is None
    assert asked == 1
    assert {path.name for path in tmp_path.iterdir()} == {path.name for path in ours} | {"making-new"}
    assert await templates.get(found, Size(8000 * MIB, 1, None, 100)) is None
    kvm = replace(found, how=Accelerator("kvm", "host", 0, ""))
    assert await templates.get(kvm, Size(64 * MIB, 2, None, 100)) is None
    assert asked == 1


async def test_templates_are_made_aside_one_by_one(tmp_path: Path) -> None:
    """When it is calm, once for each size, and not by two executors at once."""
    directory = tmp_path / "templates"
    tools = Tools(Path(sys.executable), Path(sys.executable))
    found = Equipment(tools, Boot(tmp_path / "kernel", tmp_path / "root"), TCG, tmp_path)
    made: list[dict[str, Any]] = []

    async def run(place: Path, *_: Any) -> Any:
        made.append(json.loads((place / "pod").read_text()))
        assert other._lock() is None
        raise LaunchError("there is no room")

    calm = 0

    async def wait() -> None:
        nonlocal calm
        calm += 1

    one, other = (Templates(run, directory) for _ in range(2))
    sizes = [Size(memory * MIB, cpus, None, 100) for memory, cpus in ((64, 1), (640, 3), (1024, 1), (64, 4))]
    for size in sizes:
        assert await one.get(found, size) is None
    assert not made
    await one.make_wanted(wait)
    assert (len(made), calm) == (2, 2)
    limits = {entry["name"]: entry["value"] for entry in made[0]["isolators"]}
    assert limits["resource/cpu"] == {"request": "10m"}
    assert {"name": "os/linux/oom-score-adj", "value": 1000} in made[0]["apps"][0]["app"]["isolators"]
    for number in (1, 3, 4):
        one.want(found, number)
    await one.make_wanted(wait)
    assert len(made) == 2, "it is not tried again at once"


def test_what_was_used_in_former_times_is_known(tmp_path: Path) -> None:
    now = time.time()
    for name, age in (
        ("boot.1a.2.9", 60), ("boot.2b.2.9", 3600), ("boot.1a.1.9", 100), ("boot.2b.4.9", 80),
        ("boot.1a.8.9", 8 * 86_400), ("boot.1a", 0), ("boot.1a.640M16", 0),
    ):  # fmt: skip
        path = tmp_path / f"{name}.template"
        path.touch()
        os.utime(path, (now - age, now - age))
    assert Templates(_never, tmp_path).lately() == [2, 4, 1]
    assert Templates(_never, tmp_path / "nowhere").lately() == []


async def test_those_of_a_former_boot_serve_until_there_are_new_ones(tmp_path: Path) -> None:
    tools = Tools(Path(sys.executable), Path(sys.executable))
    found = Equipment(tools, Boot(tmp_path / "kernel", tmp_path / "root"), TCG, tmp_path)
    size = Size(640 * MIB, 1, None, 100)
    templates = Templates(_never, tmp_path)
    new = templates._path(found, size.template)
    _, key, cpus, khz, suffix = new.name.split(".")
    assert (cpus, khz, suffix) == ("1", "2000000", "template")

    def put(*words: object) -> Path:
        path = tmp_path / ".".join(map(str, (*words, suffix)))
        path.touch()
        return path

    for words in (("former", "0a", 1, khz), ("former", key, 2, khz), ("former", key, 1, 2_001_000)):
        put(*words)
        assert await templates.get(found, size) is None, words
    former = put("former", key, 1, 2_000_100)
    template = await templates.get(found, size)
    assert template is not None
    assert templates.wanted, "for the next ones"
    template.close()
    at_once = Templates(_no_room, tmp_path, at_once=True)
    assert await at_once.get(found, size) is None, "who waits for one waits for one of this boot"
    put("former", key, 1, khz)
    old = put("former", key, 4, khz)
    os.utime(old, (0, 0))
    templates._tidy(new)
    assert [path.name for path in tmp_path.iterdir()] == [f"former.{key}.2.{khz}.{suffix}"], (
        "of one cpu one comes"
    )
    template = await templates.get(found, Size(640 * MIB, 2, None, 100))
    assert template is not None
    template.distrust()
    assert await templates.get(found, Size(640 * MIB, 2, None, 100)) is None
    template.close()
    assert not former.exists()


@pytest.mark.parametrize(("cpus", "usual"), [(1, [1]), (2, [1, 2]), (3, [1, 2, 4]), (64, [1, 2, 4])])
async def test_a_node_without_machines_has_the_usual_ones_when_it_has_nothing_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cpus: int, usual: list[int]
) -> None:
    loads = iter([9.0 * cpus, 0.3 * cpus, 0.2 * cpus])
    made: list[str] = []

    async def run(place: Path, *_: Any) -> Any:
        assert next(loads, None) is None, "not before the host is idle"
        (vm,) = json.loads((place / "pod").read_text())["apps"]
        made.append(vm["app"]["exec"][vm["app"]["exec"].index("-smp") + 1])
        raise LaunchError("there is no room")

    monkeypatch.setattr(machines, "IDLE_SECONDS", 0.0)
    monkeypatch.setattr(machines, "CALM_SECONDS", 0.0)
    monkeypatch.setattr(os, "cpu_count", lambda: cpus)
    monkeypatch.setattr(os, "getloadavg", lambda: (next(loads), 0.0, 0.0))
    tools = Tools(Path(sys.executable), Path(sys.executable))
    of_this_node = Machines(run, tmp_path)
    of_this_node._equipment = Equipment(tools, Boot(tmp_path / "kernel", tmp_path / "root"), TCG, tmp_path)
    await of_this_node.ahead()
    assert made == list(map(str, usual))
    again = Machines(run, tmp_path)
    again._equipment = of_this_node._equipment
    await again.ahead(expected=True)
    assert made == 2 * list(map(str, usual)), "at once"
    await Machines(_never, tmp_path, templates=0).ahead()


async def _no_room(*_: Any) -> Any:
    raise LaunchError("there is no room")


async def _never(*_: Any) -> Any:
    raise AssertionError("nothing is to be started")


def test_templates_take_no_more_disk_than_they_may(tmp_path: Path) -> None:
    boot_id = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    for number in range(5):
        path = tmp_path / f"{boot_id}.{number}.1.9.template"
        path.touch()
        os.truncate(path, 100 * MIB)
        os.utime(path, (number, number))
    Templates(_never, tmp_path, 450 * MIB)._tidy(tmp_path / f"{boot_id}.7.1.9.template")
    assert {path.name.split(".")[1] for path in tmp_path.iterdir()} == {"2", "3", "4"}


of_machines = [
    pytest.mark.root,
    pytest.mark.timeout(300),
    pytest.mark.xdist_group("machines"),
    pytest.mark.asyncio(loop_scope="module"),
]
SAYS = ["sh", "-c", (
    "cat /proc/sys/kernel/random/boot_id; od -An -tx1 -N16 /dev/urandom; date +%s; cat /share/x; nproc;"
    " grep MemTotal /proc/meminfo; cat /proc/sys/kernel/threads-max"
)]  # fmt: skip


def _apps(memory: int = 128, cpus: int = 1) -> dict[str, Any]:
    """memory: MiB."""
    limits = [
        {"name": "resource/memory", "value": {"limit": f"{memory}Mi"}},
        {"name": "resource/cpu", "value": {"limit": str(cpus), "request": "4"}},
    ]
    return {"app": {"exec": SAYS, "isolators": limits, "mounts": [{"volume": "host", "path": "/share"}]}}


def _volumes(host: Path) -> list[dict[str, Any]]:
    return [{"name": "host", "kind": "host", "source": str(host)}]


class TestMachines:
    pytestmark = of_machines

    async def test_go_on_from_one_template_and_are_not_the_same(
        self, start: Any, state: Path, tmp_path: Path
    ) -> None:
        """The second one has more memory than fits below the hole of a PC."""
        (tmp_path / "x").write_text("of the host\n")
        _forget(state)
        said = []
        for memory in (100, 3200):
            machine = await start(_apps(memory), volumes=_volumes(tmp_path))
            ended, output = await machine.run("app")
            assert ended.exit_code == 0, output
            lines = output.splitlines()
            said.append(lines)
            assert _held(machine) < 250 * MIB, "what the guest has not used, the host has not given"
            assert abs(int(lines[2]) - time.time()) < 60, "the clock is the host's"
            assert lines[3:5] == ["of the host", "1"]
            assert int(lines[5].split()[1]) * 1024 > memory * MIB
            await machine.sandbox.stop()
        for at, what in enumerate(("boot_id", "random numbers")):
            assert said[0][at] != said[1][at], what
        assert int(said[1][6]) > 8 * int(said[0][6]), "what the kernel makes of its memory it has, too"
        made = _templates(state)
        if not _emulated(state):
            assert not made, "where KVM works machines boot"
            return
        assert len(made) == 1
        assert not list((state / "kvm" / "templates").glob("making-*"))
        assert made.pop().stat().st_mode & 0o077 == 0

    async def test_have_their_number_of_cpus(
        self, start: Any, state: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """One template for three and for four. It starts with three of them."""
        monkeypatch.setattr(os, "cpu_count", lambda: 4)  # of an emulated machine, whatever the host has
        (tmp_path / "x").write_text("of the host\n")
        _forget(state)
        for cpus in (4, 3):
            machine = await start(_apps(cpus=cpus), volumes=_volumes(tmp_path))
            ended, output = await machine.run("app")
            assert (ended.exit_code, output.splitlines()[4]) == (0, str(cpus)), output
            await machine.sandbox.stop()
        assert len(_templates(state)) == _emulated(state)

    async def test_a_damaged_template_is_made_anew(
        self, start: Any, state: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """After it has been noticed: that machine is started again by whoever wanted it."""
        monkeypatch.setattr(os, "cpu_count", lambda: 4)
        (tmp_path / "x").write_text("of the host\n")
        if not _emulated(state):
            pytest.skip("where KVM works machines boot")
        (newest,) = _templates(state)  # of the tests before
        for damage in (newest.stat().st_size // 2, 10):
            os.truncate(newest, damage)
            with pytest.raises(LaunchError, match="does not go on from its template"):
                await start(_apps(cpus=4), volumes=_volumes(tmp_path))
            assert not newest.exists()
            newest.write_bytes(b"x" * 100)
        newest.unlink()
        machine = await start(_apps(cpus=4), volumes=_volumes(tmp_path))
        ended, output = await machine.run("app")
        assert (ended.exit_code, output.splitlines()[3]) == (0, "of the host")
        await machine.sandbox.stop()

    async def test_boot_where_there_are_no_templates(self, start: Any, state: Path, tmp_path: Path) -> None:
        (tmp_path / "x").write_text("of the host\n")
        before = _templates(state)
        machine = await start(_apps(), volumes=_volumes(tmp_path), templates=False)
        ended, output = await machine.run("app")
        assert (ended.exit_code, output.splitlines()[3]) == (0, "of the host")
        assert _templates(state) == before
        await machine.sandbox.stop()


def _held(machine: Any) -> int:
    """Bytes of the machine's memory that there are."""
    held = 0
    for pid in processes(machine.directory.name):
        if b"qemu-system" in Path(f"/proc/{pid}/cmdline").read_bytes():
            status = Path(f"/proc/{pid}/status").read_text()
            held += int(status.partition("RssShmem:")[2].split()[0]) * 1024
    assert held
    return held


def _forget(state: Path) -> None:
    """What other tests have made."""
    for path in _templates(state):
        path.unlink()


def _templates(state: Path) -> set[Path]:
    return set((state / "kvm" / "templates").glob("*.template"))


def _emulated(state: Path) -> bool:
    found: dict[str, Any] = json.loads((state / "kvm" / "accelerator.json").read_text())
    return bool(found["name"] == "tcg")
