"""Ways out of a pod that have worked somewhere, tried from inside: what an app could do, and that it harms nobody.

`inside/attempts.py` runs in the pod and tells what became of each attempt. A test names all that succeed: the rest
is refused. Flavor fly promises little: what it does is in the last test.
"""

import json
import os
import socket
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from executor.stage1 import caps

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(os.uname().machine != "x86_64", reason="the attempts have x86_64's numbers"),
]

SCRIPT = Path(__file__).parent / "inside" / "attempts.py"
POWERS = ("CAP_SYS_ADMIN", "CAP_SYS_PTRACE", "CAP_MKNOD")
MACHINE = (
    "kernel/core_pattern", "kernel/modprobe", "kernel/sysrq", "kernel/hostname", "kernel/panic",
    "vm/overcommit_memory",
)  # fmt: skip


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
        self, powers: tuple[str, ...] | None, *only: str, flavor: str = "linux", **pod: Any
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
        python = os.path.realpath(sys.executable)
        listener = f"gantry-escape-{os.getpid()}"
        with socket.socket(socket.AF_UNIX) as sock:
            sock.bind("\0" + listener)
            sock.listen()
            result = await self._runner.app(
                *(
                    python,
                    "-I",
                    "-S",
                    str(SCRIPT),
                    str(self._secret),
                    str(os.stat("/").st_dev),
                    listener,
                    *only,
                ),
                flavor=flavor,
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


# What an app gets done, without harm to anybody but its own pod.
OF_ITS_POD = {"kill_init", "write_proc_1/oom_score_adj"}
OF_ITS_NAMESPACES = {"unshare", "mount_anything_of_its_own", "name_of_the_machine"}
# CAP_SYS_ADMIN in the host's user namespace is root on the machine, whatever else is shut: docs/pods.md says so.
OF_THE_MACHINE = {
    "another_proc", "bpf", "copy_of_the_root_s_mount", "disk_on_a_file_system_of_its_own", "kcmp", "memory_of_init",
    "mount_a_disk", "mount_anything", "mount_by_the_new_calls", "name_of_the_machine", "namespaces_of_init",
    "pages_of_init",
    "perf_event_open", "quotactl", "read_only_volume_remounted", "release_agent", "remount_proc_sys", "trace_init",
    "uncover_proc", "write_proc_1/mem", "files_of_init", "kernel_log",
}  # fmt: skip


@pytest.mark.parametrize(
    ("users", "powers", "may"),
    [
        ("private", (), set()),
        ("host", (), OF_ITS_POD),
        ("private", POWERS, OF_ITS_NAMESPACES),
        ("host", POWERS, OF_ITS_POD | OF_ITS_NAMESPACES | OF_THE_MACHINE),
    ],
    ids=["users", "no-users", "users-powers", "no-users-powers"],
)
async def test_what_an_app_gets_done(
    attacker: Attacker, runner: Any, users: str, powers: tuple[str, ...], may: set[str]
) -> None:
    script = "while read line; do echo $line; done"
    neighbour = await runner.pod(
        runner.pods.make(runner.pods.app("/bin/sh", "-c", script), user_namespace=users)
    )
    stdin, write_end = os.pipe()
    _, output = await neighbour.start(stdin=stdin)
    os.close(stdin)
    before, clock = machine(), time.time() - time.monotonic()
    outcomes = await attacker.attempt(powers, user_namespace=users)
    assert {name for name, outcome in outcomes.items() if outcome == "done"} <= may
    assert len(outcomes) > 80
    assert machine() == before
    assert abs(time.time() - time.monotonic() - clock) < 1
    os.write(write_end, b"still here\n")
    os.close(write_end)
    assert await output.text() == "still here\n"
    assert (await neighbour.ended()).exit_code == 0


async def test_fly_keeps_an_app_in_its_root_and_its_mounts_to_itself(attacker: Attacker) -> None:
    """All that it promises (and limits): root there is root of the machine, whose processes and devices it sees."""
    before = machine()
    outcomes = await attacker.attempt(None, "leave_the_root_by_chroot", "mount_anything", flavor="fly")
    assert outcomes == {"leave_the_root_by_chroot": "ENOENT", "mount_anything": "done"}
    assert machine() == before
