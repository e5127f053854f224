"""What a pod may set of the kernel, and what else the node's rules say."""

from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest

from executor.config import parser, settings
from executor.pods.env import Node
from executor.pods.manifest import app_entry, pod_level, pod_manifest
from executor.pods.rules import Rules
from executor.pods.sysctls import SysctlError, check_allowed, normal
from executor.pods.sysctls import settings as sysctls
from executor.pods.users import Identity, resolve
from executor.stage0.config import ImageConfig

NODE = Node("node-1", "10.0.0.1", Fraction(4), 8 << 30)


def pod(*names: str, **spec: Any) -> dict[str, Any]:
    context = {"sysctls": [{"name": name, "value": "1"} for name in names]}
    containers = [{"name": "c", "image": "x", "command": ["/x"]}]
    meta = {"name": "web", "namespace": "default", "uid": "u"}
    return {"metadata": meta, "spec": {"securityContext": context, "containers": containers, **spec}}


def test_safe_ones_need_no_leave_and_others_do() -> None:
    assert sysctls(pod("kernel/shm_rmid_forced", "net.ipv4.tcp_syncookies"), "linux", ()) == {
        "kernel.shm_rmid_forced": "1",
        "net.ipv4.tcp_syncookies": "1",
    }
    with pytest.raises(SysctlError, match=r'^forbidden sysctl: "net.core.somaxconn" not allowlisted$'):
        sysctls(pod("net.core.somaxconn"), "linux", ("kernel.msg*", "net.core.rmem_max"))
    assert sysctls(pod("net.core.somaxconn"), "linux", ("net.core.*",)) == {"net.core.somaxconn": "1"}


def test_not_where_they_would_be_the_host_s() -> None:
    for spec, flavor, why in (({"hostNetwork": True}, "linux", "host net"), ({}, "fly", "flavor fly")):
        with pytest.raises(SysctlError, match=f"not allowed with {why}"):
            sysctls(pod("net.ipv4.tcp_syncookies", **spec), flavor, ())


@pytest.mark.parametrize(
    ("name", "dotted"),
    [("a.b/c", "a.b/c"), ("a/b.c/d", "a.b/c.d"), ("kernel.sem", "kernel.sem"), ("kernel/sem", "kernel.sem")],
)
def test_slashes(name: str, dotted: str) -> None:
    assert normal(name) == dotted


def test_the_node_s_rules_get_into_the_manifest() -> None:
    level = pod_level(
        pod("net.core.somaxconn"), NODE, "linux", "/t", rules=Rules(max_pids=7, unsafe_sysctls=("net.*",))
    )
    assert pod_manifest(level, [])["isolators"] == [
        {"name": "gantry.io/pids", "value": {"limit": 7}},
        {"name": "os/unix/sysctl", "value": {"net.core.somaxconn": "1"}},
    ]
    assert pod_manifest(pod_level(pod(), NODE, "linux", "/t"), [])["isolators"] == []


def test_flags() -> None:
    rules = settings(parser().parse_args([]), {}).rules
    assert (rules.max_pids, rules.unsafe_sysctls) == (4096, ())
    given = ["--pod-max-pids", "0", "--allowed-unsafe-sysctls", "net.core.*, kernel/msgmax"]
    rules = settings(parser().parse_args(given), {}).rules
    assert (rules.max_pids, rules.unsafe_sysctls) == (0, ("net.core.*", "kernel.msgmax"))
    for wrong, why in (
        (["--pod-max-pids", "-1"], "0 for no limit"),
        (["--allowed-unsafe-sysctls", "vm.x"], "vm.x"),
    ):
        with pytest.raises(ValueError, match=why):
            settings(parser().parse_args(wrong), {})
    with pytest.raises(ValueError, match="own namespaces"):
        check_allowed("kernel.panic")


def test_strict_groups_and_the_whole_proc(tmp_path: Path) -> None:
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc/passwd").write_text("app:x:5:6::/:/x\n")
    (tmp_path / "etc/group").write_text("more:x:7:app\n")
    obj = pod()
    container = {**obj["spec"]["containers"][0], "securityContext": {"procMount": "Unmasked"}}
    obj["spec"]["securityContext"] = {"supplementalGroups": [9]}
    assert resolve(container, obj, "app", (), [tmp_path]) == Identity(5, 6, (9, 7))
    obj["spec"]["securityContext"]["supplementalGroupsPolicy"] = "Strict"
    identity = resolve(container, obj, "app", (), [tmp_path])
    assert identity == Identity(5, 6, (9,))
    made = app_entry(pod_level(obj, NODE, "linux", "/t"), container, "i", ImageConfig(), identity)
    notes = {note["name"]: note["value"] for note in made["annotations"]}
    assert (notes["gantry.io/groups"], notes["gantry.io/proc-mount"]) == ("strict", "unmasked")
