"""Ways out of a pod that have worked somewhere, tried from inside: what an app could do, and that it harms nobody.

`inside/attempts.py` runs in the pod and tells what became of each attempt. What may succeed in which flavor is what
docs/isolation.md says, row by row: everything else must be refused.
"""

import contextlib
import ctypes
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from executor.stage1 import caps, nspawn

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(os.uname().machine != "x86_64", reason="the attempts have x86_64's numbers"),
]

SCRIPT = Path(__file__).parent / "inside" / "attempts.py"
DOCUMENT = Path(__file__).parents[2] / "docs" / "isolation.md"
NSPAWN = pytest.mark.skipif(bool(nspawn.why_not()), reason=nspawn.why_not() or "-")
POWERS = ("CAP_SYS_ADMIN", "CAP_SYS_PTRACE", "CAP_MKNOD")
MACHINE = (
    "kernel/core_pattern", "kernel/modprobe", "kernel/sysrq", "kernel/hostname", "kernel/panic",
    "vm/overcommit_memory",
)  # fmt: skip


@contextlib.contextmanager
def on_the_host() -> Iterator[tuple[str, str, str]]:
    """Something to reach: a process, and by its pid a segment of shared memory; a name of an abstract socket and of a
    message queue; a TCP port. What is returned are the arguments of the attempts: name, port, pid."""
    libc = ctypes.CDLL(None, use_errno=True)
    with (
        socket.socket(socket.AF_UNIX) as unix,
        socket.create_server(("127.0.0.1", 0)) as tcp,
        subprocess.Popen(["sleep", "1000"]) as process,
    ):
        name = f"gantry-escape-{process.pid}"
        unix.bind("\0" + name)
        unix.listen()
        segment = libc.shmget(process.pid, 4096, 0o1600)  # IPC_CREAT
        queue = libc.syscall(240, name.encode(), os.O_CREAT | os.O_RDONLY, 0o600, None)
        try:
            assert min(segment, queue) >= 0, os.strerror(ctypes.get_errno())
            yield name, str(tcp.getsockname()[1]), str(process.pid)
        finally:
            libc.shmctl(segment, 0, None)  # IPC_RMID
            libc.syscall(241, name.encode())
            os.close(queue)
            process.kill()


class Attacker:
    """A pod whose app makes the attempts."""

    def __init__(self, runner: Any, secret: Path, tmp_path: Path) -> None:
        self._runner = runner
        self._secret = secret
        self._base = tmp_path

    def _python(self) -> tuple[list[dict[str, Any]], Path]:
        """The interpreter of the host, read-only, and a layer with the links that its libraries are found through."""
        layer = self._base / "python"
        for name in ("lib", "lib64"):
            layer.mkdir(exist_ok=True)
            (layer / name).symlink_to(f"usr/{name}")
        places = {"/usr", os.path.realpath(sys.base_prefix), str(SCRIPT.parent)}
        return [
            {"name": f"python{number}", "kind": "host", "source": place, "readOnly": True}
            for number, place in enumerate(
                sorted(p for p in places if p == "/usr" or not p.startswith("/usr/"))
            )
        ], layer

    async def attempt(
        self,
        powers: tuple[str, ...] | None,
        *only: str,
        flavor: str = "linux",
        user: str = "0",
        **pod: Any,
    ) -> dict[str, str]:
        """What became of each attempt, by name; of all of them, or of `only` these."""
        volumes, layer = self._python()
        mounts = [{"volume": one["name"], "path": one["source"]} for one in volumes]
        reading = self._base / "reading"
        reading.mkdir()
        (reading / "file").touch()
        volumes += [
            {"name": "volume", "kind": "empty"},
            {"name": "memory", "kind": "empty", "gantry.io/medium": "Memory"},
            {"name": "reading", "kind": "host", "source": str(reading), "readOnly": True},
        ]
        mounts += [{"volume": name, "path": f"/{name}"} for name in ("volume", "memory", "reading")]
        isolators = []
        if powers is not None:
            names = [*caps.DEFAULT, *powers]
            isolators = [{"name": "os/linux/capabilities-retain-set", "value": {"set": names}}]
        with on_the_host() as there:
            python = os.path.realpath(sys.executable)
            result = await self._runner.app(
                *(
                    python,
                    "-I",
                    "-S",
                    str(SCRIPT),
                    str(self._secret),
                    str(os.stat("/").st_dev),
                    *there,
                    *only,
                ),
                flavor=flavor,
                user=user,
                group=user,
                mounts=mounts,
                isolators=isolators,
                pod={"volumes": volumes, "layers": (layer,), **pod},
            )
        assert result.exit.exit_code == 0, result.output
        found: dict[str, str] = json.loads(result.output)
        return found


@pytest.fixture
def attacker(runner: Any, host_file: Path, tmp_path: Path) -> Attacker:
    return Attacker(runner, host_file, tmp_path)


def machine() -> list[str]:
    """What of the machine an attack would change."""
    files = [Path(f"/proc/sys/{name}") for name in MACHINE]
    settings = [file.read_text() for file in files if file.exists()]
    mounts = sorted(line.split()[4] for line in Path("/proc/self/mountinfo").read_text().splitlines())
    return [*settings, *mounts, Path("/proc/swaps").read_text()]


COLUMNS = ("linux", "linux, hostUsers", "nspawn", "fly", "fly, not root", "kvm")  # kvm: tests/kvm


class Row(NamedTuple):
    """Of the table in docs/isolation.md: names of attempts, and in which columns they may succeed."""

    attempts: frozenset[str]
    may: dict[str, bool]


def documented() -> list[Row]:
    lines = DOCUMENT.read_text().splitlines()
    head = next(number for number, line in enumerate(lines) if line.startswith("| attempts |"))
    rows = []
    for line in lines[head + 2 :]:
        if not line.startswith("|"):
            break
        _, names, *cells = (cell.strip() for cell in line.strip("|").split("|"))
        assert set(cells) <= {"no", "yes"}, line
        may = {column: cell == "yes" for column, cell in zip(COLUMNS, cells, strict=True)}
        rows.append(Row(frozenset(names.strip("`").split("` `")), may))
    return rows


# With CAP_SYS_ADMIN, CAP_SYS_PTRACE and CAP_MKNOD. In the host's user namespace that is root on the machine, whatever
# else is shut: docs/pods.md says so.
OF_ITS_NAMESPACES = {"unshare", "mount_anything_of_its_own", "name_of_the_machine", "packets_as_they_are"}
OF_THE_MACHINE = {
    "another_proc", "below_the_root_by_taking_it_away", "below_the_root_of_a_copy_of_the_pod_s", "bpf",
    "cgroup_of_a_user_namespace", "copy_of_the_root_s_mount", "disk_on_a_file_system_of_its_own", "kcmp",
    "memory_of_init", "mount_a_disk", "mount_anything", "mount_by_the_new_calls", "namespaces_of_init",
    "pages_of_init", "perf_event_open", "quotactl", "read_only_volume_remounted", "release_agent",
    "remount_proc_sys", "trace_init", "uncover_proc", "write_proc_1/mem", "write_proc_1/oom_score_adj",
    "files_of_init", "kernel_log",
}  # fmt: skip


@pytest.fixture
async def unharmed(runner: Any) -> AsyncIterator[None]:
    """A neighbour that must answer afterwards, and a machine that must be as it was."""
    script = "while read line; do echo $line; done"
    neighbour = await runner.pod(runner.pods.make(runner.pods.app("/bin/sh", "-c", script)))
    stdin, write_end = os.pipe()
    _, output = await neighbour.start(stdin=stdin)
    os.close(stdin)
    before, clock = machine(), time.time() - time.monotonic()
    yield
    assert machine() == before
    assert abs(time.time() - time.monotonic() - clock) < 60
    os.write(write_end, b"still here\n")
    os.close(write_end)
    assert await output.text() == "still here\n"
    assert (await neighbour.ended()).exit_code == 0


def done(outcomes: dict[str, str]) -> set[str]:
    return {name for name, outcome in outcomes.items() if outcome == "done"}


@pytest.mark.parametrize(
    ("column", "more"),
    [
        ("linux", {"user_namespace": "private"}),
        ("linux, hostUsers", {"user_namespace": "host"}),
        pytest.param("nspawn", {}, marks=NSPAWN),
        ("fly", {}),
        ("fly, not root", {"user": "1234"}),
    ],
    ids=["linux", "no-users", "nspawn", "fly", "fly-not-root"],
)
async def test_what_an_app_gets_done(
    attacker: Attacker, unharmed: None, column: str, more: dict[str, str]
) -> None:
    flavor = column.partition(",")[0]
    outcomes = await attacker.attempt(None if flavor == "fly" else (), flavor=flavor, **more)
    rows = documented()
    assert sorted(outcomes) == sorted(name for row in rows for name in row.attempts), "each is in one row"
    may = {name for row in rows for name in row.attempts if row.may[column]}
    assert done(outcomes) <= may
    for row in rows:  # nothing is said to be possible that is not
        assert not row.may[column] or done(outcomes) & row.attempts, row


# Of an app that is pid 1 itself, and may do to itself what it must not to the pod's init.
AT_ITSELF = {
    "files_of_init", "kill_init", "memory_of_init", "read_proc_1/environ", "trace_init", "write_proc_1/mem",
    "write_proc_1/oom_score_adj",
}  # fmt: skip


@pytest.mark.parametrize("users", ["private", "host"])
async def test_what_an_app_gets_done_that_is_pid_1(attacker: Attacker, unharmed: None, users: str) -> None:
    outcomes = await attacker.attempt((), user_namespace=users, processes="own")
    column = "linux" if users == "private" else "linux, hostUsers"
    may = {name for row in documented() for name in row.attempts if row.may[column]}
    assert done(outcomes) - AT_ITSELF <= may


@pytest.mark.parametrize("flavor", ["linux", pytest.param("nspawn", marks=NSPAWN)])
async def test_whoever_is_not_root_gets_nothing_done(attacker: Attacker, flavor: str) -> None:
    outcomes = await attacker.attempt((), flavor=flavor, user="1234")
    assert done(outcomes) == set()


@pytest.mark.parametrize(
    ("users", "may"),
    [("private", OF_ITS_NAMESPACES), ("host", OF_ITS_NAMESPACES | OF_THE_MACHINE)],
    ids=["users", "no-users"],
)
async def test_what_powers_add(attacker: Attacker, unharmed: None, users: str, may: set[str]) -> None:
    outcomes = await attacker.attempt(POWERS, user_namespace=users)
    assert done(outcomes) <= may


async def test_fly_keeps_its_mounts_to_itself(attacker: Attacker) -> None:
    before = Path("/proc/self/mountinfo").read_text()
    outcomes = await attacker.attempt(None, "mount_anything", flavor="fly")
    assert outcomes == {"mount_anything": "done"}
    assert Path("/proc/self/mountinfo").read_text() == before
