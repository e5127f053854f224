"""fsGroup: whose volumes are, and what of them the group may do."""

import errno
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from executor.pods import ownership
from executor.pods.claims import CLAIM
from executor.pods.env import Node
from executor.pods.manifest import pod_level, pod_manifest
from executor.pods.objects import Objects
from executor.pods.supplies import Supplies
from executor.pods.users import resolve
from executor.stage0.removal import remove_tree

pytestmark = pytest.mark.root
GROUP = 3000


def shape(path: Path) -> tuple[int, str]:
    info = path.lstat()
    return info.st_gid, oct(stat.S_IMODE(info.st_mode))


@pytest.fixture
def tree(tmp_path: Path) -> Iterator[Path]:
    root = tmp_path / "volume"
    (root / "sub").mkdir(parents=True)
    for path, mode in ((root, 0o755), (root / "sub", 0o700)):
        path.chmod(mode)
    for name, mode in (("plain", 0o600), ("sub/program", 0o4755), ("secret", 0)):
        (root / name).touch()
        (root / name).chmod(mode)
    outside = tmp_path / "outside"
    outside.write_text("x")
    outside.chmod(0o600)
    (root / "link").symlink_to(outside)
    os.mkfifo(root / "pipe", 0o600)
    yield root
    assert shape(outside) == (0, "0o600")


def test_a_tree_is_given(tree: Path) -> None:
    ownership.give(str(tree), GROUP)
    assert shape(tree) == (GROUP, "0o2775")
    assert shape(tree / "sub") == (GROUP, "0o2770")
    assert shape(tree / "plain") == (GROUP, "0o660")
    assert shape(tree / "sub/program") == (GROUP, "0o4775")
    assert shape(tree / "secret") == (GROUP, "0o660")
    assert shape(tree / "pipe") == (GROUP, "0o660")
    assert (tree / "link").lstat().st_gid == GROUP
    assert tree.stat().st_uid == 0


def test_what_is_only_read(tree: Path) -> None:
    ownership.give(str(tree), GROUP, read_only=True)
    assert [shape(tree / name)[1] for name in (".", "plain", "sub")] == ["0o2755", "0o640", "0o2750"]


def test_a_root_that_is_right_already(tree: Path) -> None:
    once = {"policy": ownership.ON_ROOT_MISMATCH}
    os.chown(tree, -1, GROUP)
    tree.chmod(0o2755)  # the group may not write
    ownership.give(str(tree), GROUP, **once)
    assert shape(tree / "plain") == (GROUP, "0o660")
    (tree / "plain").chmod(0o600)
    ownership.give(str(tree), GROUP, **once)
    assert shape(tree / "plain") == (GROUP, "0o600"), "left as it is"
    ownership.give(str(tree), GROUP + 1, **once)
    assert shape(tree / "plain") == (GROUP + 1, "0o660")
    with pytest.raises(FileNotFoundError):
        ownership.give(str(tree / "none"), GROUP)


def test_new_volumes_are_made_so() -> None:
    volumes = [{"name": "disk", "emptyDir": {}}, {"name": "config", "configMap": {"name": "x"}}]
    pod = {
        "metadata": {"name": "web", "uid": "u"},
        "spec": {
            "containers": [{"name": "c", "image": "x"}],
            "volumes": [*volumes, {"name": "host", "hostPath": {"path": "/x"}}],
            "securityContext": {"fsGroup": GROUP, "supplementalGroups": [7]},
        },
    }
    level = pod_level(pod, Node("n", "10.0.0.1", 1, 1), "linux", "/t")  # type: ignore[arg-type]
    disk, config, host, _ = pod_manifest(level, [])["volumes"]
    assert (disk["mode"], disk["gid"]) == ("2777", GROUP)
    assert (config["mode"], config["gid"]) == ("2755", GROUP)
    assert "gid" not in host
    assert resolve({}, pod, "", (9,), ()).groups == (GROUP, 7, 9)


SCRIPT = (
    "id -G; stat -L -c '%g %a %n' /disk /memory /claim /claim/old /config /config/level; cat /config/level; "
)
SCRIPT += "touch /disk/new /memory/new /claim/new; stat -c '%g' /disk/new /memory/new /claim/new"


@pytest.mark.system
@pytest.mark.parametrize("users", [False, True])
async def test_in_a_pod(host: Any, tmp_path: Path, users: bool) -> None:
    """Every kind of volume that is given; with a user namespace, and without."""
    claim = tmp_path / "claim"
    claim.mkdir()
    (claim / "old").write_text("x")
    (claim / "old").chmod(0o600)
    mounts = [{"name": name, "mountPath": f"/{name}"} for name in ("disk", "memory", "claim", "config")]
    volumes = [
        {"name": "disk", "emptyDir": {}},
        {"name": "memory", "emptyDir": {"medium": "Memory"}},
        {"name": "claim", "hostPath": {"path": str(claim), "type": "Directory"}, CLAIM: {"readOnly": False}},
        {
            "name": "config",
            "configMap": {
                "name": "config",
                "defaultMode": 0o400,
                "items": [{"key": "level", "path": "level", "mode": 0o400}],
            },
        },
    ]
    context = {"runAsUser": 1000, "runAsGroup": 1000, "fsGroup": GROUP}
    task = host.run(
        {"run": SCRIPT, "volumeMounts": mounts},
        volumes=volumes,
        securityContext=context,
        supplies=Supplies(
            objects=Objects.from_json({"configMaps": {"config": {"data": {"level": "debug\n"}}}})
        ),
        hostUsers=not users,
    )
    ended = await host.end(task)
    lines = (await host.log("p")).splitlines()
    assert ended.state == "TASK_FINISHED", lines
    assert lines == [
        f"1000 {GROUP}",
        f"{GROUP} 2777 /disk",
        f"{GROUP} 2777 /memory",
        f"{GROUP} 2775 /claim",
        f"{GROUP} 660 /claim/old",
        f"{GROUP} 2755 /config",
        f"{GROUP} 440 /config/level",
        "debug",
        *[str(GROUP)] * 3,
    ]
    assert shape(claim / "new")[0] == GROUP


@pytest.mark.system
async def test_ids_that_no_user_namespace_has(host: Any) -> None:
    run = {"run": "id -u; cut -c1-60 /proc/self/uid_map"}
    task = host.run(run, securityContext={"runAsUser": 1_000_620_000, "fsGroup": 1_000_620_000})
    assert (await host.end(task)).state == "TASK_FINISHED"
    lines = (await host.log("p")).splitlines()
    assert lines[0] == "1000620000"
    assert lines[1].split() == ["0", "0", "4294967295"]


def test_what_is_too_deep_is_an_error_of_the_volume(tmp_path: Path) -> None:
    """Or is given, where Python steps as deep as that (3.12, and enough descriptors)."""
    tree = tmp_path / "tree"
    tree.mkdir()
    here = os.open(tree, os.O_RDONLY)
    for _ in range(3000):
        os.mkdir("d", dir_fd=here)
        below = os.open("d", os.O_RDONLY, dir_fd=here)
        os.close(here)
        here = below
    wrong = None
    try:
        ownership.give(str(tree), GROUP)
    except OSError as error:
        wrong = error.errno
    is_given = bool(os.fstat(here).st_mode & stat.S_ISGID)
    os.close(here)
    remove_tree(tree)
    assert wrong in (errno.ENAMETOOLONG, errno.EMFILE) or (wrong is None and is_given)
