"""Pods of Kubernetes in a machine, with as many of a pod's fields as fit into two, through the executor's own runner.

What each field is to do is what tests/pods and tests/stage1 say; here it is that a machine makes no difference.
"""

import asyncio
import os
import shutil
import uuid
from collections.abc import AsyncIterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from executor.kvm.machines import Machines
from executor.pods.core.effects import Report
from executor.pods.env import Node
from executor.pods.gpus import Gpus, Host
from executor.pods.keeper import LauncherKeeper
from executor.pods.objects import Objects
from executor.pods.poddir import PodDirs
from executor.pods.pods import Pods
from executor.pods.ports import Machine
from executor.pods.supplies import Supplies
from executor.stage0.build import Options, build_oci
from executor.stage0.store import ImageStore
from executor.stage0.trust.gate import Gate
from executor.stage0.trust.policy import Policy
from tests.pods.reported import Reported

pytestmark = [
    pytest.mark.root,
    pytest.mark.timeout(300),
    pytest.mark.xdist_group("machines"),
    pytest.mark.asyncio(loop_scope="module"),
]

IMAGE = "localhost/box:1"
MACHINE_SECONDS = 200.0


class Executor(Reported):
    """What has pods, without Mesos."""

    def __init__(self, root: Path, state: Path) -> None:
        super().__init__()
        self.dirs = PodDirs(root / "pods")
        self.dirs.open()
        self.keeper = LauncherKeeper()
        node = Node("node-1", "127.0.0.1", Fraction(4), 8 << 30)
        images = ImageStore(
            root / "state",
            local_images=root / "images",
            trust=Gate(Policy.from_table({"default-aci": "none"})),
        )
        gpus = Gpus(Host(root), root / "gpus")
        machines = Machines(self.keeper.run_pod, state, at_once=True)
        machine = Machine(lambda: node, images, self.dirs, machines, "kvm", gpus, ("kvm",))
        self.pods = Pods(machine, self.report)

    async def log_now(self, name: str, app: str) -> str:
        """Of an app that runs."""
        path, _ = self.pods.log_of("default", name, app, previous=False)
        return path.read_text()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def executor(tmp_path_factory: pytest.TempPathFactory, state: Path) -> AsyncIterator[Executor]:
    root = tmp_path_factory.mktemp("executor")
    tree = root / "tree"
    for name in ("bin", "etc", "tmp", "kept"):
        (tree / name).mkdir(parents=True)
    shutil.copy(shutil.which("busybox") or "/bin/busybox", tree / "bin" / "busybox")
    (tree / "bin" / "sh").symlink_to("busybox")
    (tree / "kept" / "file").write_text("of the image\n")
    options = Options(env=("PATH=/bin",), volumes=("/kept",), stop_signal="SIGUSR1", compression="none")
    build_oci(tree, root / "images" / "box", "1", options)
    made = Executor(root, state)
    made.keeper.start()
    yield made
    await made.pods.shutdown(0.0, "the test is over")
    await made.pods.close()
    await made.keeper.close()


def container(name: str, script: str, **fields: Any) -> dict[str, Any]:
    applets = 'for a in $(busybox --list); do alias $a="busybox $a"; done\n'
    command = ["/bin/sh", "-c", f"{applets}{script}"]
    asked = fields.pop("resources", {})
    if "cpu" not in asked.get("limits", {}):
        asked = {**asked, "requests": {"cpu": "4"}}  # the weight of what it runs beside, as in conftest
    own = {"image": IMAGE, "imagePullPolicy": "IfNotPresent", "command": command, "resources": asked}
    return {"name": name, **own, **fields}


def pod(**spec: Any) -> tuple[str, dict[str, Any]]:
    """Its task id, and itself."""
    uid = str(uuid.uuid4())
    meta = {"name": f"p-{uid[:8]}", "namespace": "default", "uid": uid, "labels": {"app": "all"}}
    return f"{uid}.1", {"metadata": meta, "spec": {"terminationGracePeriodSeconds": 60, **spec}}


def shown(report: Report, name: str) -> dict[str, Any]:
    every = [*report.status["containerStatuses"], *report.status.get("initContainerStatuses", ())]
    found: dict[str, Any] = next(one for one in every if one["name"] == name)
    return found


CONFIG = {"config": {"word": b"first", "other": b"x"}}
FIELDS = """
id -u; id -G; cat /proc/self/status | grep -e NoNewPrivs -e CapEff
echo $WORD $NAME $CPUS; cat /config/word /one; echo
cat /labels/labels; echo
touch /file 2>/dev/null || echo read-only
stat -c '%g %a' /empty; touch /empty/mine; stat -c '%u %g' /empty/mine
df -m /memory | tail -1 | { read d size rest; echo memory $size; }
cat /sub/from-init; touch /claim/new; stat -c '%u %g' /claim/new
hostname; cat /proc/sys/net/ipv4/ip_unprivileged_port_start
echo $$$$; cat /proc/1/comm
echo last words > /dev/termination-log
"""


def with_all_fields(claim: Path) -> tuple[str, dict[str, Any]]:
    """A task id, and its pod: of two containers, and one before them. claim: a directory of the host."""
    mounts = {
        "config": "/config",
        "labels": "/labels",
        "empty": "/empty",
        "memory": "/memory",
        "claim": "/claim",
    }
    fields = container(
        *("fields", FIELDS),
        env=[
            {"name": "WORD", "valueFrom": {"configMapKeyRef": {"name": "config", "key": "word"}}},
            {"name": "NAME", "valueFrom": {"fieldRef": {"fieldPath": "metadata.namespace"}}},
            {"name": "CPUS", "valueFrom": {"resourceFieldRef": {"resource": "limits.cpu"}}},
        ],
        resources={"limits": {"memory": "16Mi", "cpu": "1"}},  # in all as much as the other pod: one template
        securityContext={
            "runAsUser": 70000,
            "readOnlyRootFilesystem": True,
            "allowPrivilegeEscalation": False,
            "capabilities": {"drop": ["ALL"]},
        },
        volumeMounts=[
            *({"name": name, "mountPath": path} for name, path in mounts.items()),
            {"name": "config", "mountPath": "/one", "subPath": "word"},
            {"name": "empty", "mountPath": "/sub", "subPath": "below/it"},
        ],
    )
    fill = "mkdir -p /v/below/it && echo from init > /v/below/it/from-init"
    setup = container("setup", fill, volumeMounts=[{"name": "empty", "mountPath": "/v"}])
    labels = {"path": "labels", "fieldRef": {"fieldPath": "metadata.labels"}}
    return pod(
        restartPolicy="Never",
        hostname="named",
        initContainers=[setup],
        containers=[fields, container("image", "echo more >> /kept/file; cat /kept/file; exit 3")],
        volumes=[
            {"name": "config", "configMap": {"name": "config"}},
            {"name": "labels", "downwardAPI": {"items": [labels]}},
            {"name": "empty", "emptyDir": {}},
            {"name": "memory", "emptyDir": {"medium": "Memory", "sizeLimit": "3Mi"}},
            {"name": "claim", "hostPath": {"path": str(claim), "type": "Directory"}},
        ],
        securityContext={
            "fsGroup": 3000,
            "supplementalGroups": [4000],
            "sysctls": [{"name": "net.ipv4.ip_unprivileged_port_start", "value": "81"}],
        },
    )


async def test_the_fields_of_a_pod(executor: Executor, tmp_path: Path) -> None:
    claim = tmp_path / "claim"
    claim.mkdir()
    os.chown(claim, 0, 3000)
    claim.chmod(0o2775)  # open for one of the user's groups, not its first
    task, made = with_all_fields(claim)
    executor.pods.launch(task, made, Supplies(objects=Objects(CONFIG), digest="1"))
    ended = await executor.end(task, MACHINE_SECONDS)
    name = made["metadata"]["name"]
    assert (await executor.log(name, "fields")).splitlines() == [
        *("70000", "0 3000 4000", "CapEff:\t0000000000000000", "NoNewPrivs:\t1"),
        *("first default 1", "firstfirst", 'app="all"', "read-only"),
        *("3000 2777", "70000 3000", "memory 3", "from init", "70000 3000", "named", "81"),
        *("1", "sh"),  # processes of its own
    ]
    assert await executor.log(name, "image") == "of the image\nmore\n"
    assert ended.state == "TASK_FAILED"
    assert shown(ended, "fields")["state"]["terminated"]["message"] == "last words\n"
    assert shown(ended, "image")["state"]["terminated"]["exitCode"] == 3


STOPS = "trap 'echo stopped; exit 0' USR1; "
SIDE = (
    STOPS
    + "mkdir /www; echo fine > /www/index.html; httpd -p 127.0.0.1:8080 -h /www; while :; do sleep 0.5; done"
)
EATS = "exec busybox dd if=/dev/zero of=/dev/null bs=900M count=1"
MAIN = (
    STOPS + "until grep -q second /config/word; do sleep 0.5; done; echo saw it; while :; do sleep 0.5; done"
)


async def test_the_life_of_a_pod(executor: Executor) -> None:
    """A sidecar that is probed, hooks, a death for memory, a ConfigMap that changes, an end by the image's signal."""
    mount = {"volumeMounts": [{"name": "v", "mountPath": "/v"}]}
    probed = {"httpGet": {"port": 8080}, "timeoutSeconds": 20, "periodSeconds": 1, "failureThreshold": 100}
    hooks = {
        when: {"exec": {"command": ["/bin/sh", "-c", f"busybox echo {when} $HOSTNAME >> /v/hooks"]}}
        for when in ("postStart", "preStop")
    }
    main = container(
        *("main", MAIN),
        volumeMounts=[*mount["volumeMounts"], {"name": "config", "mountPath": "/config"}],
        lifecycle=hooks,
        readinessProbe=probed,
    )
    task, made = pod(
        restartPolicy="OnFailure",
        hostname="named",
        initContainers=[container("side", SIDE, restartPolicy="Always", startupProbe=probed, **mount)],
        containers=[
            main,
            container("eats", EATS, resources={"limits": {"memory": "16Mi"}}),
        ],
        volumes=[{"name": "v", "emptyDir": {}}, {"name": "config", "configMap": {"name": "config"}}],
    )
    executor.pods.launch(task, made, Supplies(objects=Objects(CONFIG), digest="1"))
    settled = await executor.until(
        task,
        lambda report: shown(report, "main")["ready"] and shown(report, "eats")["lastState"],
        MACHINE_SECONDS,
    )
    assert shown(settled, "eats")["lastState"]["terminated"]["reason"] == "OOMKilled"
    assert shown(settled, "side")["started"]
    executor.pods.provide(task, Objects({"config": {"word": b"second"}}), "2")
    name = made["metadata"]["name"]
    async with asyncio.timeout(60):
        while "saw it" not in await executor.log_now(name, "main"):  # noqa: ASYNC110 - nobody tells
            await asyncio.sleep(0.05)
    hooked = executor.dirs.root / "run" / task / "sharedVolumes" / "v" / "hooks"
    assert hooked.read_text() == "postStart named\n"
    executor.pods.kill(task, 60.0, "deleted")
    ended = await executor.end(task, MACHINE_SECONDS)
    assert ended.state == "TASK_KILLED"
    for app in ("main", "side"):
        assert (await executor.log(name, app)).endswith("stopped\n")
        assert shown(ended, app)["state"]["terminated"]["exitCode"] == 0
    failures = [
        event for report in executor.reports[task] for event in report.events if "Hook" in event.reason
    ]
    assert failures == []
