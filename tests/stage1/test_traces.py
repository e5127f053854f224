"""What a pod that means to leave something for the next one of its tenant can leave there: nothing that shows.

`inside/leave.py` tries; `inside/look.py` tells all it can find out, in the next pod, and in one that nobody was before.
"""

import json
import os
import shutil
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from executor.pods.launcher import Launcher
from tests.stage1.conftest import Pods, Runner, ready_for_the_next

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(os.uname().machine != "x86_64", reason="the programs have x86_64's numbers"),
]

PROGRAMS = Path(__file__).parent / "inside"
NUMBERS = ("segment", "semaphore", "messages", "number in shm")
"""Each has been used once for every pod before (docs/isolation.md)."""
FIRST = (0, 0, 0, 2)
GOES_WITH_THE_PROCESS = (
    "map_of_projects", "files_of_proc", "files_of_sys", "names", "keys",
    "many_processes", "what_the_kernel_counts_for_a_user", "devices", "label_of_flows", "orphans", "lock_on_shm",
    "lock_on_mqueue", "lease_on_shm", "lease_on_mqueue",
)  # fmt: skip
REFUSED = (
    "mode_of_shm", "same_mode_of_shm", "owner_of_shm", "times_of_shm", "attribute_of_shm", "acl_of_shm",
    "default_acl_of_shm", "flags_of_shm", "owner_of_mqueue", "attribute_of_mqueue", "acl_of_mqueue",
    "default_acl_of_mqueue", "flags_of_mqueue",
)  # fmt: skip
ENDS_IT = (
    "segment", "segments_that_went", "semaphores", "semaphores_that_went", "messages", "messages_that_went", "queue",
    "file_in_shm", "file_in_shm_that_went", "shm_with_as_many_files_as_it_takes", "list_of_shm", "mode_of_mqueue",
    "packets", "connection",
)  # fmt: skip
EITHER = (
    "queue_without_a_name", "segment_that_is_going", "file_in_shm_without_a_name", "full_shm", "times_of_mqueue",
    "same_mode_of_mqueue", "sockets_of_every_kind", "abstract_name", "sockets_in_flight", "groups",
)  # fmt: skip
"""Some of it is gone at once, some after a while, some does not show: what counts is what the next one sees."""


class Tenants:
    """Pods, one after another, that run the programs."""

    def __init__(self, launcher: Launcher, pods: Pods, layers: tuple[Path, ...]) -> None:
        self._launcher = launcher
        self._runner = Runner(launcher, pods)
        self._layers = layers
        self.processes = "shared"

    async def run(self, tenant: str, program: str, *arguments: str) -> tuple[str, str]:
        """Who the pod's init is, and what the program says."""
        python = f"/bin/{os.path.basename(os.path.realpath(sys.executable))}"
        app = self._runner.pods.app(
            *(python, "-s", "-S", "-B", f"/programs/{program}.py", *arguments),
            environment=[{"name": "LD_LIBRARY_PATH", "value": "/lib"}, {"name": "PYTHONHOME", "value": "/"}],
        )
        notes = {"hostname": "same", "tenant": tenant, "processes": self.processes}
        directory = self._runner.pods.make(app, layers=self._layers, network="loopback", **notes)  # type: ignore[arg-type]
        pod = await self._runner.pod(directory)
        stat = Path(f"/proc/{pod.sandbox.pid}/stat").read_text()
        init = f"{pod.sandbox.pid} since {stat.rpartition(')')[2].split()[19]}"
        _, output = await pod.start()
        said = await output.text()
        assert (await pod.ended()).exit_code == 0, said
        await pod.stop()
        await ready_for_the_next(self._launcher)
        return init, said

    async def look(self, tenant: str) -> tuple[str, dict[str, Any]]:
        """Who the pod's init is, and what is seen; the numbers, that go on, in one."""
        init, said = await self.run(tenant, "look")
        found = json.loads(said)
        numbers = [found.pop(name) - first for name, first in zip(NUMBERS, FIRST, strict=True)]
        return init, {**found, "one number for all": len(set(numbers)) == 1}


@pytest.fixture
async def tenants(pods: Pods, image: Path, tmp_path: Path) -> AsyncIterator[Tenants]:
    """The interpreter comes with the image: where a volume is the host's nothing is handed on."""
    layer = tmp_path / "programs"
    (layer / "programs").mkdir(parents=True)
    (layer / "usr").symlink_to(".")
    for name in ("kernel", "leave", "look"):
        shutil.copy(PROGRAMS / f"{name}.py", layer / "programs")
    python = Path(os.path.realpath(sys.base_prefix))
    layers = (layer, *dict.fromkeys((python, Path("/usr"))))
    launcher = await Launcher.start(spares=1, points=image.with_name("points"))
    try:
        yield Tenants(launcher, pods, layers)
    finally:
        await launcher.close()


@pytest.mark.parametrize("processes", ["shared", "own"])
async def test_nothing_shows_of_what_a_pod_has_left(tenants: Tenants, processes: str) -> None:
    tenants.processes = processes
    fresh = [(await tenants.look(f"fresh{number}"))[1] for number in range(2)]
    steady = {name: value for name, value in fresh[0].items() if fresh[1].get(name) == value}
    assert len(steady) > len(fresh[0]) - 3, set(fresh[0]) - set(steady)

    async def handed_on(tenant: str, *names: str, looks: int = 1) -> bool:
        """Whether one of so many pods that look had the init of the one that tried to leave something."""
        first, said = await tenants.run(tenant, "leave", *names)
        if names == REFUSED:
            assert [line.split()[0] for line in said.splitlines()] == list(REFUSED)
        for _ in range(looks):  # it is made ready beside, and may not be when the next comes
            second, seen = await tenants.look(tenant)
            assert {name: seen.get(name) for name in steady} == steady, names
            if first == second:
                return True
        return False

    goes = GOES_WITH_THE_PROCESS if processes == "own" else (*GOES_WITH_THE_PROCESS, "first_process")
    for names in (goes, REFUSED):
        for number in range(5):  # on a slow machine an init may wait in vain for the next pod
            if await handed_on(f"{names[0]}{number}", *names, looks=4):
                break
        else:
            pytest.fail(f"no pod had the init of one that has tried {names}")
    if processes == "shared":
        return  # what the others do is nothing to processes
    for name in ENDS_IT:
        assert not await handed_on(name, name), name
    for name in EITHER:
        await handed_on(name, name)
