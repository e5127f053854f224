"""Ways out of a pod, tried in a machine: what they reach there is the machine's own kernel, and nothing of the host.

The attempts are those of every flavor (tests/stage1/inside/attempts.py); here they are also made by an app that may do
whatever it wants in its machine, which is what an app is that has got out of its container.
"""

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from executor.pods.launcher import LaunchError
from executor.stage1 import caps
from tests.kvm.hierarchy import processes

pytestmark = [
    pytest.mark.root,
    pytest.mark.timeout(300),
    pytest.mark.xdist_group("machines"),
    pytest.mark.asyncio(loop_scope="module"),
]

ATTEMPTS = Path(__file__).parents[1] / "stage1" / "inside" / "attempts.py"
DOCUMENT = Path(__file__).parents[2] / "docs" / "isolation.md"
COLUMN = 6
MACHINE = ("core_pattern", "modprobe", "sysrq", "hostname", "panic")
STAYS = ["sh", "-c", "while :; do sleep 1000; done"]
# Root of the machine: with all capabilities, all devices of the guest, and without a filter.
ROOT = [{"name": "gantry.io/privileged", "value": "true"}]
# It tries to write to all of the shared tree, which it mounts once more, and to what it may only read; then to leave
# on the host's disk what would be dangerous there.
DIGS = r"""
mkdir /tree && mount -t virtiofs share /tree || echo no tree
for path in $(find /tree -maxdepth 3 -type d); do touch $path/dug 2>/dev/null && echo wrote $path; done
mount -o remount,rw /reading; touch /reading/new /reading/file; echo no > /reading/file
mknod /volume/null c 1 3 && echo made a device; mknod /null b 254 0 && echo made a device
cp /bin/busybox /volume/root && chown 0:0 /volume/root && chmod 6755 /volume/root
ln -s /etc /volume/etc; ln -s ../../../../../../etc /volume/up; cat /volume/etc/hostname /volume/up/hostname
cat /dev/zero > /memory/full
cat /tree/volumes/*/beside /given/../beside && echo read what is beside; echo yes > /given/new
echo end
"""
# What of the attempts would be of the host, or of the node's disk, if it succeeded.
OF_THE_HOST = [
    "disk_in_root", "disk_in_dev", "disk_in_shm", "disk_in_volume", "disk_in_memory", "mount_a_disk",
    "disk_on_a_file_system_of_its_own", "kvm_device", "host_file_through_proc", "host_file_by_handle",
    "leave_the_root_by_chroot", "leave_the_root_by_dots", "leave_the_root_by_another",
    "leave_the_root_by_taking_it_away", "read_only_volume", "read_only_volume_remounted",
    "socket_to_the_hypervisor", "release_agent", "abstract_socket_of_the_host", "loopback_of_the_host",
    "shared_memory_of_the_host", "message_queue_of_the_host", "signal_to_a_process_of_the_host",
    "trace_a_process_of_the_host", "memory_of_a_process_of_the_host",
    "environment_of_a_process_of_the_host", "priority_of_a_process_of_the_host",
]  # fmt: skip
# What it may do to its own machine, which nobody else has.
OF_THE_MACHINE = [
    "set_the_clock",
    "load_a_module",
    "write_proc_sys/kernel/core_pattern",
    "name_of_the_machine",
    "reboot",
]


@pytest.fixture(scope="module")
def there(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[str]]:
    """What is on the host to reach, as arguments of the attempts: a file, its disk, an abstract socket, port, pid."""
    secret = tmp_path_factory.mktemp("secret") / "file"
    secret.write_text("of the host\n")
    with (
        socket.socket(socket.AF_UNIX) as unix,
        socket.create_server(("127.0.0.1", 0)) as tcp,
        subprocess.Popen(["sleep", "1000"]) as process,
    ):
        name = f"gantry-machine-{process.pid}"
        unix.bind("\0" + name)
        unix.listen()
        yield [str(secret), str(os.stat("/").st_dev), name, str(tcp.getsockname()[1]), str(process.pid)]
        assert process.poll() is None
        process.kill()
    assert secret.read_text() == "of the host\n"


def settings() -> list[str]:
    files = [Path(f"/proc/sys/kernel/{name}") for name in MACHINE]
    return [file.read_text() for file in files if file.exists()]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def machine(start: Any, there: list[str], tmp_path_factory: pytest.TempPathFactory) -> Any:
    base = tmp_path_factory.mktemp("host")
    (base / "reading").mkdir()
    (base / "reading" / "file").write_text("as it was\n")
    (base / "partly" / "given").mkdir(parents=True)
    (base / "partly" / "beside").write_text("not the machine's\n")
    python = os.path.realpath(sys.executable)
    places = {"/usr", os.path.realpath(sys.base_prefix), str(ATTEMPTS.parent)}
    places = {place for place in places if place == "/usr" or not place.startswith("/usr/")}
    volumes = [
        {"name": f"python{n}", "kind": "host", "source": place} for n, place in enumerate(sorted(places))
    ]
    programs = [{"volume": one["name"], "path": one["source"], "readOnly": True} for one in volumes]
    volumes += [
        {"name": "volume", "kind": "empty"},
        {"name": "memory", "kind": "empty", "gantry.io/medium": "Memory", "gantry.io/size-limit": "1Mi"},
        {"name": "reading", "kind": "host", "source": str(base / "reading")},
        {"name": "partly", "kind": "host", "source": str(base / "partly")},
    ]
    given = {"volume": "partly", "path": "/given", "gantry.io/sub-path": "given"}
    mounts = [{"volume": name, "path": f"/{name}"} for name in ("volume", "memory")]
    mounts.append({"volume": "reading", "path": "/reading", "readOnly": True})
    command = [python, "-I", "-S", str(ATTEMPTS), *there]
    find = "ln -s usr/lib64 /lib64; ln -s usr/lib /lib; exec "  # the interpreter's libraries
    every, some = " ".join(command), " ".join([*command, *OF_THE_HOST, *OF_THE_MACHINE])
    retain = {"name": "os/linux/capabilities-retain-set", "value": {"set": sorted(caps.DEFAULT)}}
    volume = {"volume": "volume"}
    apps = {
        "tries": {
            "exec": ["/bin/sh", "-c", find + every],
            "mounts": [*programs, *mounts],
            "isolators": [retain],
        },
        "root": {"exec": ["/bin/sh", "-c", find + some], "mounts": [*programs, *mounts], "notes": ROOT},
        "digs": {"exec": ["sh", "-c", DIGS], "mounts": [*mounts, given], "notes": ROOT},
        "linked": {"exec": ["touch", "/leads-out/touched"], "mounts": [{**volume, "path": "/leads-out"}]},
        "beside": {"exec": ["true"], "mounts": [{**volume, "path": "/x", "gantry.io/sub-path": "up"}]},
        "eats": {"exec": ["tail", "/dev/zero"]},
        "neighbour": {"exec": STAYS},
    }
    limit = [{"name": "resource/memory", "value": {"limit": "128Mi"}}]
    made = await start(apps, volumes=volumes, isolators=limit, templates=False)
    null = os.open("/dev/null", os.O_WRONLY)
    await made.sandbox.start_app("neighbour", stdin=None, stdout=null, stderr=null)
    os.close(null)
    made.base = base
    return made


def done(output: str) -> set[str]:
    return {name for name, outcome in json.loads(output).items() if outcome == "done"}


def running(machine: Any, program: bytes) -> list[int]:
    """The machine's processes on the host that run a program."""
    pids = processes(machine.directory.name)
    return [pid for pid in pids if program in Path(f"/proc/{pid}/cmdline").read_bytes()]


async def test_what_an_app_gets_done_is_what_is_said(machine: Any) -> None:
    lines = DOCUMENT.read_text().splitlines()
    cells = [line.strip("|").split("|") for line in lines if line.startswith("|") and "`" in line]
    rows = [
        (set(row[1].strip().strip("`").split("` `")), row[1 + COLUMN].strip() == "yes")
        for row in cells
        if len(row) == 2 + COLUMN
    ]
    ended, output = await machine.run("tries")
    assert ended.exit_code == 0, output
    assert set(json.loads(output)) == set().union(*(names for names, _ in rows))
    assert done(output) <= set().union(*(names for names, may in rows if may))
    assert all(names & done(output) for names, may in rows if may)


async def test_root_of_the_machine_reaches_nothing_of_the_host(machine: Any) -> None:
    before, clock = settings(), time.time() - time.monotonic()
    ended, output = await machine.run("root")
    assert ended.exit_code == 0, output
    assert done(output) == set(OF_THE_MACHINE)
    assert settings() == before
    assert abs(time.time() - time.monotonic() - clock) < 60


async def test_root_of_the_machine_writes_where_the_pod_may(machine: Any) -> None:
    """To its volumes, and to the roots of the pod's apps; neither to images, nor to what is only to be read."""
    ended, output = await machine.run("digs")
    assert ended.exit_code == 0, output
    lines = output.splitlines()
    assert lines[-1] == "end"
    assert "made a device" not in output
    assert lines.count("web") == 2, "the machine's own /etc/hostname"
    assert "read what is beside" not in output
    assert (machine.base / "partly" / "given" / "new").read_text() == "yes\n"
    assert any("No space left on device" in line for line in lines), "of the volume of 1 MiB"
    for layer in machine.layers:
        assert not list(layer.rglob("dug"))
    reading = machine.base / "reading"
    assert [(path.name, path.read_text()) for path in reading.iterdir()] == [("file", "as it was\n")]
    left = [path for path in machine.directory.rglob("*") if not path.is_symlink()]
    assert not any(path.is_block_device() for path in left)
    assert "null" not in {path.name for path in left if path.parent.name == "volume"}
    setuid = [path for path in left if path.is_file() and path.stat().st_mode & 0o6000]
    assert [path.relative_to(machine.directory) for path in setuid] == [Path("sharedVolumes/volume/root")]


async def test_links_lead_nowhere(machine: Any) -> None:
    """A link in an image, on which something is mounted; a link in a volume, of which something is."""
    ended, output = await machine.run("linked")
    assert ended.exit_code == 0, output
    assert (machine.directory / "sharedVolumes/volume/touched").exists()
    assert not Path("/led-out").exists()
    with pytest.raises(LaunchError, match="Invalid cross-device link"):
        await machine.run("beside")


async def test_an_app_that_eats_the_machine_s_memory_is_killed_alone(machine: Any) -> None:
    """It has no limit of its own."""
    ended, _ = await machine.run("eats")
    assert (ended.signal, ended.oom_killed) == (9, True)
    assert await machine.exec("neighbour", "echo", "here") == (0, None, "here\n")


async def test_what_serves_the_machine_sees_this_pod_alone(machine: Any) -> None:
    """virtiofsd, as seen from the host: its root, its user, what it may do."""
    serving = running(machine, b"virtiofsd")
    assert serving
    for pid in serving:
        shared = Path(f"/proc/{pid}/root")
        assert {path.name for path in shared.iterdir()} <= {"images", "volumes", "overlay"}
        status = Path(f"/proc/{pid}/status").read_text().split("\n")
        fields = dict(line.split(":\t", 1) for line in status if ":\t" in line)
        assert not int(fields["CapEff"], 16) & caps.mask({"CAP_MKNOD", "CAP_SYS_ADMIN", "CAP_SYS_PTRACE"})
        assert (fields["NoNewPrivs"], fields["Seccomp"]) == ("1", "2")
    assert not machine.gone.done()


async def test_a_machine_that_hangs_is_ended(machine: Any, leftovers: Any) -> None:
    """Last. Root of a machine can make it hang in many ways; here QEMU does nothing more."""
    (qemu,) = running(machine, b"qemu-system")
    os.kill(qemu, signal.SIGSTOP)
    machine.sandbox.watch(0.1)
    reason = await asyncio.wait_for(machine.gone, 90)
    assert "has not answered" in reason
    assert leftovers(machine.directory) == []
