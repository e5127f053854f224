"""Real pods, from a real image under the real stage1, with a TPM: what runs is what was measured, or nothing runs."""

import asyncio
import hashlib
import os
from fractions import Fraction

import pytest

from executor.config import parser, settings
from executor.pods.env import Node
from executor.pods.gpus import Gpus, Host
from executor.pods.keeper import LauncherKeeper
from executor.pods.launcher import Launcher, LaunchError
from executor.pods.poddir import PodDirs
from executor.pods.pods import Pods
from executor.pods.ports import Machine
from executor.stage0.build import Options, build_oci
from executor.stage0.store import ImageStore
from executor.tpm.attest import attest
from executor.tpm.measure import Measurer
from executor.tpm.program import program_digest
from executor.tpm.transport import parse
from executor.tpm.verify import load_key, verify
from tests.ground import put_busybox

SECONDS = 60.0


class World:
    """One machine, its pods, and what they report."""

    def __init__(self, root, config):
        self.reports = asyncio.Queue()
        self.keeper = LauncherKeeper()
        dirs = PodDirs(root / "pods")
        dirs.open()
        self.images = ImageStore(root / "state", local_images=root / "images")
        self.manifests = {}
        node = Node("node-1", "127.0.0.1", Fraction(4), 8 << 30)
        machine = Machine(
            *(lambda: node, self.images, dirs, self.run_pod, "fly", Gpus(Host(root), root / "gpus")),
            measure=Measurer(config.tpm).measure,
        )
        self.pods = Pods(machine, lambda task_id, report: self.reports.put_nowait(report))
        self.dirs = dirs

    async def run_pod(self, path, on_exit, on_gone):
        """As the keeper's, but remembers what stage1 is given to read."""
        self.manifests[path.name] = "sha256:" + hashlib.sha256((path / "pod").read_bytes()).hexdigest()
        return await self.keeper.run_pod(path, on_exit, on_gone)

    def run(self, name):
        uid = f"{name}-{os.urandom(4).hex()}"
        spec = {
            "containers": [
                {"name": "c", "image": "localhost/busybox:1", "command": ["/bin/busybox", "true"]}
            ],
            "restartPolicy": "Never",
        }
        self.pods.launch(
            f"{uid}.1", {"metadata": {"name": name, "namespace": "default", "uid": uid}, "spec": spec}
        )
        return uid

    async def until(self, test):
        async with asyncio.timeout(SECONDS):
            while not test(report := await self.reports.get()):
                pass
        return report


@pytest.fixture
async def world(swtpm, tmp_path):
    try:
        await (await Launcher.start(spares=0)).close()
    except LaunchError as error:
        pytest.skip(str(error))
    put_busybox(tmp_path / "rootfs", "true")
    build_oci(tmp_path / "rootfs", tmp_path / "images" / "busybox", "1", Options(compression="none"))
    flags = ["--state-dir", str(tmp_path / "state"), "--tpm", swtpm.tcti]
    made = World(tmp_path, settings(parser().parse_args(flags), {}))
    made.keeper.start()
    yield made
    await made.pods.shutdown(0.0, "the test is over")
    await made.keeper.close()
    await made.pods.close()


@pytest.mark.root
async def test_pods_that_ran_are_attested(world, swtpm, tmp_path):
    uids = [world.run(name) for name in ("one", "two")]
    for _ in uids:
        report = await world.until(lambda report: report.terminal)
        assert report.status["phase"] == "Succeeded", report
    tcti = parse(swtpm.tcti)
    made = await asyncio.to_thread(attest, tcti, tmp_path / "state" / "tpm", 15, b"n" * 16)
    verified = verify(made, load_key(made.key.encode()), b"n" * 16, 15)
    assert sorted(event["uid"] for event in verified.events) == sorted(uids)
    image = await world.images.pull("localhost/busybox:1", "Never")
    [event, _] = verified.events
    assert event["apps"] == [
        {
            "name": "c",
            "image": image.id,
            "digest": image.digest,
            "layers": [path.parent.name.replace("-", ":", 1) for path in image.layers],
        }
    ]
    assert event["stage1"] == {"flavor": "fly", "digest": program_digest(), "files": {}, "image": ""}
    assert {event["pod"]: event["manifest"] for event in verified.events} == world.manifests


@pytest.mark.root
async def test_a_pod_that_cannot_be_measured_does_not_start(world, swtpm, tmp_path):
    swtpm.stop()
    world.run("one")
    report = await world.until(
        lambda report: any(e.reason == "FailedCreatePodSandBox" for e in report.events)
    )
    [message] = [e.message for e in report.events if e.reason == "FailedCreatePodSandBox"]
    assert message.startswith(
        "Failed to create pod sandbox: it cannot be measured (--tpm-policy enforce): no TPM at swtpm:host="
    )
    assert not list((tmp_path / "pods" / "run").iterdir())


def test_flags(tmp_path):
    def tpm(*words):
        return settings(parser().parse_args(["--state-dir", str(tmp_path), *words]), {}).tpm

    assert tpm() is None
    found = tpm("--tpm", "/dev/tpmrm0")
    assert (found.tcti.device, found.pcr, found.enforce, found.directory) == (
        "/dev/tpmrm0",
        15,
        True,
        tmp_path / "tpm",
    )
    found = tpm("--tpm", "swtpm:port=7", "--tpm-pcr", "12", "--tpm-policy", "report")
    assert (found.tcti.port, found.pcr, found.enforce) == (7, 12, False)
    with pytest.raises(ValueError, match="--tpm 'nonsense': expected /dev/tpmrm0"):
        tpm("--tpm", "nonsense")
    with pytest.raises(ValueError, match="--tpm-pcr 3: expected 8 to 15; 3 belongs to the firmware"):
        tpm("--tpm", "/dev/tpmrm0", "--tpm-pcr", "3")
