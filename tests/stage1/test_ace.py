"""What appc's ACE validator asks of an executor, all of it: both of its images as ACIs, one pod, each flavor, through
the whole executor but Mesos.

The numbers are those of the assertions of spec/ace/validator.go (appc spec 0.8.11): 1 pre-start, 2 to 12 main, 13 the
sidekick, 14 post-stop. The validator is a shell script here; what takes more than a shell to compare, it prints.
"""

import io
import json
import os
import tarfile
import uuid
from collections.abc import AsyncIterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest

from executor.contract.stages import ByFlavor
from executor.kvm import kernel, probe
from executor.kvm.machines import Machines
from executor.metadata.images import store_manifests
from executor.metadata.keys import Keys
from executor.metadata.service import Service
from executor.pods.env import Node
from executor.pods.gpus import Gpus, Host
from executor.pods.keeper import LauncherKeeper
from executor.pods.poddir import PodDirs
from executor.pods.pods import Pods
from executor.pods.ports import Machine
from executor.pods.supplies import Supplies
from executor.stage0.store import ImageStore
from executor.stage0.trust.gate import Gate
from executor.stage0.trust.policy import Policy
from executor.stage1 import nspawn
from executor.stage1.manifest import FLAVORS
from tests.pods.reported import SECONDS, Reported

pytestmark = pytest.mark.root

# Emulated it takes its time; machines start one at a time.
MACHINE = [pytest.mark.timeout(300), pytest.mark.xdist_group("machines")]
VALIDATOR = r"""#!/bin/sh
fail() { echo "==> $*" >&2; wrong=1; }
absent() { [ ! -e "$1" ] || fail "$1 exists"; }
create() { absent "$1"; : > "$1" || fail "create $1"; }
wait_for() {
  n=0
  until [ -e "$1" ]; do n=$((n+1)); [ $n -gt 500 ] && { fail "$1 did not come"; return; }; usleep 10000; done
}
ask() {  # type path [form]: the body is in /tmp/body
  url="$AC_METADATA_URL/acMetadata/v1$2"
  wget -S -q -O /tmp/body --header 'Metadata-Flavor: AppContainer' ${3:+--post-data "$3"} "$url" 2> /tmp/head ||
    { fail "$2: $(cat /tmp/head)"; return 1; }
  tr -d '\r' < /tmp/head | grep -q "^ *Content-Type: $1\$" || fail "$2: $(grep Content-Type /tmp/head)"
}
show() { ask "$@" && echo "$2 $(cat /tmp/body)"; }
encoded() { sed 's/+/%2B/g; s/=/%3D/g'; }
ascii='text/plain; charset=us-ascii'
wrong=
case $1 in
prestart) create /prestart; absent /main; absent /poststop;;
poststop) [ -e /prestart ] || fail no /prestart; [ -e /main ] || fail no /main; create /poststop;;
sidekick) create /db/sidekick; wait_for /db/main;;
main)
  [ -e /prestart ] || fail no /prestart; create /main; absent /poststop
  [ "$PATH" = /usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin ] || fail "PATH is $PATH"
  [ "$(pwd)" = /opt/acvalidator ] || fail "it stands in $(pwd)"
  [ "$IN_ACE_VALIDATOR" = correct ] || fail "IN_ACE_VALIDATOR is $IN_ACE_VALIDATOR"
  options=$(awk '$5 == "/db" { print $6 }' /proc/self/mountinfo)
  case ",$options," in *,rw,*) ;; *) fail "/db is mounted with '$options'";; esac
  [ "$AC_APP_NAME" = ace-validator-main ] || fail "AC_APP_NAME is $AC_APP_NAME"
  [ -n "$AC_METADATA_URL" ] || fail AC_METADATA_URL is not set
  show application/json /pod/manifest
  show "$ascii" /pod/uuid; pod=$(cat /tmp/body)
  show application/json /pod/annotations
  for app in ace-validator-main ace-validator-sidekick; do
    show application/json "/apps/$app/image/manifest"
    show "$ascii" "/apps/$app/image/id"
    show application/json "/apps/$app/annotations"
  done
  ask "$ascii" /pod/hmac/sign 'content=Old MacDonald Had A Farm'
  form="uuid=$pod&signature=$(encoded < /tmp/body)"
  ask "$ascii" /pod/hmac/verify "content=Old MacDonald Had A Farm&$form"
  wget -q -O - --header 'Metadata-Flavor: AppContainer' --post-data "content=else&$form" \
    "$AC_METADATA_URL/acMetadata/v1/pod/hmac/verify" 2>&1 | grep -q 403 || fail another content verifies
  wget -q -O - "$AC_METADATA_URL/acMetadata/v1/pod/uuid" 2>&1 | grep -q 403 || fail no header is needed
  wget -q -O - --header 'Metadata-Flavor: AppContainer' "${AC_METADATA_URL}0/acMetadata/v1/pod/uuid" 2>&1 |
    grep -q 401 || fail another token is good
  wait_for /db/sidekick; create /db/main;;
esac
for name in AC_APP_NAME AC_METADATA_URL PATH container; do  # spec/ace.md: also for lifecycle processes
  eval "[ -n \"\$$name\" ]" || fail "$1: $name is not set"
done
[ -z "$wrong" ] && echo "$1 OK" || { echo "$1 FAIL"; exit 1; }
"""


def image_manifest(mode: str) -> dict[str, Any]:
    """As ace/image_manifest_{main,sidekick}.json.in."""
    app: dict[str, Any] = {
        "exec": ["/ace-validator", mode],
        "user": "0",
        "group": "0",
        "mountPoints": [{"name": "database", "path": "/db", "readOnly": False}],
    }
    notes: dict[str, str] = {}
    if mode == "main":
        app |= {
            "eventHandlers": [
                {"name": "pre-start", "exec": ["/ace-validator", "prestart"]},
                {"name": "post-stop", "exec": ["/ace-validator", "poststop"]},
            ],
            "workingDirectory": "/opt/acvalidator",
            "environment": [{"name": "IN_ACE_VALIDATOR", "value": "correct"}],
            "ports": [{"name": "www", "protocol": "tcp", "port": 80}],
            "isolators": [{"name": "resource/memory", "value": {"limit": "1G"}}],
        }
        notes = {
            "created": "2014-10-27T19:32:27.67021798Z",
            "authors": "Carly Container <carly@example.com>, Nat Network <nat@example.com>",
            "homepage": "https://github.com/appc/spec",
            "documentation": "https://github.com/appc/spec/blob/master/README.md",
            "lorem": "ipsum",
        }
    labels = {"version": "0.8.11", "os": "linux", "arch": "amd64"}
    return {
        "acVersion": "0.8.11",
        "acKind": "ImageManifest",
        "name": f"coreos.com/ace-validator-{mode}",
        "labels": [{"name": name, "value": value} for name, value in labels.items()],
        "app": app,
        "annotations": [{"name": name, "value": value} for name, value in notes.items()],
    }


def make_aci(mode: str, image: Path, target: Path) -> Path:
    """Busybox and the validator."""

    def put(tar: tarfile.TarFile, name: str, data: bytes, mode: int) -> None:
        info = tarfile.TarInfo(name)
        info.size, info.mode = len(data), mode
        tar.addfile(info, io.BytesIO(data))

    def owned(info: tarfile.TarInfo) -> tarfile.TarInfo:
        info.uid = info.gid = 0
        return info

    with tarfile.open(target, "w") as tar:
        put(tar, "manifest", json.dumps(image_manifest(mode)).encode(), 0o644)
        tar.add(image, "rootfs", filter=owned)
        directory = tarfile.TarInfo("rootfs/opt/acvalidator")
        directory.type, directory.mode = tarfile.DIRTYPE, 0o755
        tar.addfile(directory)
        put(tar, "rootfs/ace-validator", VALIDATOR.encode(), 0o755)
    return target


class Executor(Reported):
    """All of it, but for Mesos."""

    def __init__(self, root: Path, machines: Path) -> None:
        """machines: where what all virtual machines have in common is kept."""
        super().__init__()
        self.dirs = PodDirs(root / "pods")
        self.dirs.open()
        self.keeper = LauncherKeeper()
        state = root / "state"
        self.metadata = Service(Keys(state / "metadata" / "key", make=True), store_manifests(state))
        node = Node("node-1", "127.0.0.1", Fraction(4), 8 << 30)
        machine = Machine(
            lambda: node,
            ImageStore(state, trust=Gate(Policy.from_table({"default-aci": "none"}))),
            self.dirs,
            ByFlavor(Machines(self.keeper.run_pod, machines, templates=0), {}),
            "linux",
            Gpus(Host(root), root / "gpus"),
            (*FLAVORS, "kvm"),
            metadata=self.metadata,
        )
        self.pods = Pods(machine, self.report)

    async def close(self) -> None:
        await self.pods.shutdown(0.0, "the test is over")
        await self.pods.close()
        await self.keeper.close()
        await self.metadata.shut()


@pytest.fixture
async def executor(tmp_path: Path, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Executor]:
    made = Executor(tmp_path, tmp_path_factory.getbasetemp() / "machines")  # as in tests/kvm
    made.keeper.start()
    yield made
    await made.close()


def why_not(flavor: str) -> str:
    """Why pods of a flavor cannot run here; "" when they can."""
    if flavor == "kvm":
        try:
            probe.tools()
            kernel.find()
        except (probe.ProbeError, kernel.KernelError) as error:
            return str(error)
    return nspawn.why_not() if flavor == "nspawn" else ""


@pytest.fixture(scope="session")
def acis(image: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The validator's two images."""
    base = tmp_path_factory.mktemp("acis")
    return {mode: make_aci(mode, image, base / f"{mode}.aci") for mode in ("main", "sidekick")}


def check_told(told: dict[str, str], meta: dict[str, Any]) -> None:
    """What the metadata service has told the main app, by path, of a pod with this `metadata`."""
    manifest = json.loads(told["/pod/manifest"])
    assert manifest["acKind"] == "PodManifest"
    assert told["/pod/uuid"] == meta["uid"]  # 9
    annotations = json.loads(told["/pod/annotations"])
    assert annotations == manifest["annotations"]
    assert {"name": "example.com/note", "value": "kept"} in annotations
    assert manifest["userAnnotations"] == meta["annotations"]
    for mode in ("main", "sidekick"):  # 10
        app = f"ace-validator-{mode}"
        (entry,) = (one for one in manifest["apps"] if one["name"] == app)
        original = image_manifest(mode)
        assert json.loads(told[f"/apps/{app}/image/manifest"]) == original
        assert told[f"/apps/{app}/image/id"] == entry["image"]["id"]
        assert entry["image"]["id"].startswith("sha512-")
        expected = {one["name"]: one["value"] for one in original["annotations"]}
        expected |= {one["name"]: one["value"] for one in entry["annotations"]}
        found = json.loads(told[f"/apps/{app}/annotations"])
        assert [(one["name"], one["value"]) for one in found] == list(expected.items())


@pytest.mark.parametrize("network", ["own", "host"])
@pytest.mark.parametrize("flavor", [*FLAVORS, pytest.param("kvm", marks=MACHINE)])
async def test_the_validator_s_fourteen(
    executor: Executor, acis: dict[str, Path], flavor: str, network: str
) -> None:
    if reason := why_not(flavor):
        pytest.skip(reason)
    if flavor == "fly" and network == "own":
        pytest.skip("fly has the host's network")
    if flavor == "kvm" and network == "host":
        pytest.skip("a virtual machine cannot have it")
    containers = [
        {
            "name": f"ace-validator-{mode}",
            "image": f"file://{acis[mode]}",
            "imagePullPolicy": "IfNotPresent",
            "volumeMounts": [{"name": "database", "mountPath": "/db"}],
            "resources": {"requests": {"cpu": "4"}},  # an emulated machine is late with less
        }
        for mode in ("main", "sidekick")
    ]
    meta = {
        "name": "ace",
        "namespace": "default",
        "uid": str(uuid.uuid4()),
        "annotations": {"example.com/note": "kept", "Example": "user's"},
    }
    spec = {
        "containers": containers,
        "volumes": [{"name": "database", "emptyDir": {}}],
        "restartPolicy": "Never",
        "runtimeClassName": flavor,
        **({"hostNetwork": True} if network == "host" else {}),
    }
    task = f"{meta['uid']}.1"  # cgroups are named after it, and tests run beside one another
    executor.pods.launch(task, {"metadata": meta, "spec": spec}, Supplies(handler=flavor))
    ended = await executor.end(task, 240.0 if flavor == "kvm" else SECONDS)
    said = (await executor.log("ace", "ace-validator-main")).splitlines()
    sidekick = await executor.log("ace", "ace-validator-sidekick")
    assert ended.state == "TASK_FINISHED", (said, sidekick, ended)
    assert sidekick == "sidekick OK\n"  # 13
    told = {line.split(" ")[0]: line.partition(" ")[2] for line in said if line.startswith("/")}
    assert [line for line in said if not line.startswith("/")] == [
        "prestart OK",  # 1
        "main OK",  # 2 to 8, 11, 12
        "poststop OK",  # 14
    ]
    check_told(told, meta)


async def test_nothing_of_a_pod_s_service_is_left(executor: Executor, acis: dict[str, Path]) -> None:
    before: set[str] = set()
    urls = []
    for number in range(3):
        container = {
            "name": "c",
            "image": f"file://{acis['sidekick']}",
            "command": ["/bin/sh", "-c", "echo $AC_METADATA_URL; wget -q -O - $AC_METADATA_URL; exit 0"],
        }
        name = f"p{number}"
        meta = {"name": name, "namespace": "default", "uid": str(uuid.uuid4())}
        spec = {"containers": [container], "restartPolicy": "Never"}
        task = f"{meta['uid']}.1"
        executor.pods.launch(task, {"metadata": meta, "spec": spec})
        await executor.end(task)
        urls.append((await executor.log(name, "c")).split()[0])
        await executor.pods.settle()
        sockets = {path for path in map(_target, Path("/proc/self/fd").iterdir()) if "socket:" in path}
        before = before or sockets
        assert sockets <= before
        assert not list(executor.dirs.root.glob("*/*/metadata-url"))
        for file in executor.dirs.root.rglob("*"):
            assert (
                not file.is_file()
                or urls[-1].encode()[-48:] not in file.read_bytes()
                or "/logs/" in str(file)
            )
    assert len(set(urls)) == 3


def _target(path: Path) -> str:
    try:
        return os.readlink(path)
    except OSError:
        return ""
