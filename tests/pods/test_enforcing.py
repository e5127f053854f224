"""What a node cannot enforce: refused, or reported; never dropped."""

import os
import stat
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest

from executor.config import parser, settings
from executor.pods import apparmor, bandwidth, labels
from executor.pods.enforcing import (
    REPORT,
    EnforceError,
    Facts,
    admit,
    controllers,
    facts,
    without_unenforceable,
)
from executor.pods.env import ConfigError, Node
from executor.pods.isolators import with_image
from executor.pods.manifest import app_entry, pod_level, pod_manifest
from executor.pods.rules import Rules
from executor.pods.supplies import Supplies
from executor.pods.users import Identity
from executor.stage0.config import ImageConfig
from executor.stage1 import lsm
from executor.stage1 import manifest as stage1
from executor.stage1.cgroups import Layout
from executor.stage1.isolators import OF_A_POD, OF_AN_APP, WITHIN_DEFAULT

NODE = Node("node-1", "10.0.0.1", Fraction(4), 8 << 30)
OFF = Facts(labels={lsm.APPARMOR: "AppArmor is not on in this kernel", lsm.SELINUX: "SELinux is not on"})
NETWORK = f"pod: isolator resource/network-bandwidth is not enforced: {bandwidth.WHY_NOT}"
PROFILE = {"type": "Localhost", "localhostProfile": "k8s-web"}


def pod(container: dict[str, Any] | None = None, notes: dict[str, str] | None = None, **spec: Any) -> Any:
    made = {"name": "c", "image": "x", "command": ["/x"], **(container or {})}
    meta = {"name": "web", "namespace": "default", "uid": "u", "annotations": notes or {}}
    return {"metadata": meta, "spec": {"containers": [made], **spec}}


def context(**fields: Any) -> dict[str, Any]:
    return {"securityContext": fields}


def whole(obj: Any, config: ImageConfig | None = None, flavor: str = "linux") -> Any:
    level = pod_level(obj, NODE, flavor, "/t")
    container = obj["spec"]["containers"][0]
    return pod_manifest(level, [app_entry(level, container, "i", config or ImageConfig(), Identity(0, 0))])


def of_app(made: Any) -> dict[str, Any]:
    return {one["name"]: one["value"] for one in made["apps"][0]["app"]["isolators"]}


def test_profiles_of_apparmor() -> None:
    name = "os/linux/apparmor-profile"
    assert of_app(whole(pod(context(appArmorProfile=PROFILE))))[name] == {"profile": "k8s-web"}
    default = pod(None, securityContext={"appArmorProfile": {"type": "RuntimeDefault"}})
    assert of_app(whole(default))[name] == {"profile": "gantry-default"}
    assert labels.wants_default_profile(default)
    own = pod(
        context(appArmorProfile={"type": "Unconfined"}), securityContext=default["spec"]["securityContext"]
    )
    assert name not in of_app(whole(own))
    assert not labels.wants_default_profile(own)
    with pytest.raises(ConfigError, match="Localhost with a profile"):
        whole(pod(context(appArmorProfile={"type": "Localhost"})))


def test_contexts_of_selinux(tmp_path: Path) -> None:
    asked = pod(context(seLinuxOptions={"level": "s0:c1,c2"}))
    container, spec = asked["spec"]["containers"][0], asked["spec"]
    (made,) = labels.isolators(container, spec, tmp_path)
    usual = {"user": "system_u", "role": "system_r", "type": "container_t", "level": "s0:c1,c2"}
    assert made == {"name": "os/linux/selinux-context", "value": usual}
    (tmp_path / "mls/contexts").mkdir(parents=True)
    (tmp_path / "config").write_text("# comment\nSELINUXTYPE=mls\n")
    (tmp_path / "mls/contexts/lxc_contexts").write_text('process = "u:r:t:s0-s1:c1"\nfile = "u:o:f:s0"\n')
    assert labels.isolators(container, spec, tmp_path)[0]["value"]["type"] == "t"
    assert labels.isolators({}, {"securityContext": {"seLinuxOptions": {}}}, tmp_path) == []
    level = labels.isolators(container, {"securityContext": {"seLinuxOptions": {"level": "x"}}}, tmp_path)
    assert level[0]["value"]["level"] == "s0:c1,c2"


@pytest.mark.parametrize(
    ("obj", "flavor", "reason", "message"),
    [
        (
            pod(context(appArmorProfile=PROFILE)),
            "linux",
            "AppArmor",
            "Cannot enforce AppArmor: AppArmor is not on",
        ),
        (
            pod(context(seLinuxOptions={"level": "s0"})),
            "fly",
            "SELinux",
            "Cannot enforce SELinux: SELinux is not on",
        ),
        (
            pod(context(appArmorProfile=PROFILE)),
            "kvm",
            "AppArmor",
            "nobody loads profiles or a policy of AppArmor into",
        ),
        (
            pod(notes={"kubernetes.io/egress-bandwidth": "1M"}),
            "linux",
            "NetworkBandwidth",
            "nothing here limits what a pod uses of the network",
        ),
        (
            pod(notes={"kubernetes.io/egress-bandwidth": "1M"}),
            "coreos",
            "NetworkBandwidth",
            "no stage1 image can be told",
        ),
    ],
)
def test_what_the_pod_alone_tells_is_refused_at_once(
    obj: Any, flavor: str, reason: str, message: str
) -> None:
    with pytest.raises(EnforceError, match=message) as caught:
        admit(obj, flavor, OFF)
    assert caught.value.reason == reason


def test_a_node_with_the_module_takes_it() -> None:
    admit(pod(context(appArmorProfile=PROFILE)), "linux", Facts(labels={lsm.APPARMOR: ""}))
    admit(pod(), "kvm", OFF)


def test_the_network_s_share_is_in_bytes() -> None:
    notes = {"kubernetes.io/ingress-bandwidth": "8M", "kubernetes.io/egress-bandwidth": "9"}
    value = {"default": True, "limit": "2", "gantry.io/ingress": "1000000"}
    assert bandwidth.isolators(pod(notes=notes)) == [{"name": "resource/network-bandwidth", "value": value}]
    assert bandwidth.isolators(pod()) == []


def image(*isolators: tuple[str, Any]) -> ImageConfig:
    return ImageConfig(app={"isolators": [{"name": name, "value": value} for name, value in isolators]})


def test_an_image_s_isolators_hold_where_the_pod_says_nothing() -> None:
    config = image(
        ("resource/cpu", {"limit": "1"}),
        ("resource/memory", {"limit": "1G"}),
        ("os/linux/capabilities-retain-set", {"set": ["CAP_KILL", "CAP_SYS_ADMIN", "CAP_CHOWN"]}),
        ("os/linux/seccomp-remove-set", {"set": ["ptrace"]}),
        ("os/linux/oom-score-adj", -1000),
        ("example.com/odd", {"x": 1}),
    )
    made = of_app(whole(pod({"resources": {"limits": {"memory": "5"}}}), config))
    assert made["resource/cpu"] == {"limit": "1"}
    assert made["resource/memory"]["limit"] == "5"
    assert made["os/linux/capabilities-retain-set"] == {"set": ["CAP_CHOWN", "CAP_KILL"]}
    assert made["os/linux/seccomp-remove-set"] == {"set": ["ptrace"], WITHIN_DEFAULT: True}
    assert made["os/linux/oom-score-adj"] > 0
    assert made["example.com/odd"] == {"x": 1}
    foreign = of_app(whole(pod(), config, "coreos"))["os/linux/seccomp-remove-set"]
    assert foreign == {"set": ["ptrace"]}, "in appc's words alone"
    asked = context(seccompProfile={"type": "Unconfined"}, capabilities={"add": ["NET_ADMIN"]})
    made = of_app(whole(pod(asked), config))
    assert "os/linux/seccomp-remove-set" not in made
    assert made["os/linux/capabilities-retain-set"] == {"set": ["CAP_CHOWN", "CAP_KILL", "CAP_NET_ADMIN"]}
    assert with_image([], config.app["isolators"] if config.app else [], default_seccomp=False)[2][
        "value"
    ] == {"set": ["ptrace"]}


def complaint(raw: Any) -> str:
    """What stage1 says of a manifest."""
    try:
        stage1.read(stage1.json.dumps(raw))
    except stage1.ManifestError as error:
        return str(error)
    return ""


def test_every_isolator_that_is_known_can_be_read() -> None:
    """The lists by which enforcing judges are stage1's own."""
    for name, known in (("of an app", OF_AN_APP), ("of a pod", OF_A_POD)):
        for one in known:
            isolators = [{"name": one, "value": {}}]
            app = {
                "name": "a",
                "app": {"exec": ["/x"], "isolators": isolators if name == "of an app" else []},
            }
            raw = {
                "acKind": "PodManifest",
                "apps": [app],
                "isolators": isolators if known is OF_A_POD else [],
            }
            assert "not supported" not in complaint(raw)


def test_what_is_left_out_is_said() -> None:
    config = image(
        ("example.com/odd", 1),
        ("resource/block-iops", {"default": True, "limit": 5}),
        ("resource/cpu", {"limit": "1"}),
    )
    obj = pod(context(appArmorProfile=PROFILE), {"kubernetes.io/ingress-bandwidth": "1M"})
    node = Facts(frozenset({"cpu"}), "no disk", "", OFF.labels)
    made, said = without_unenforceable(whole(obj, config), "linux", node)
    assert said == (
        NETWORK,
        "container c: isolator os/linux/apparmor-profile is not enforced: AppArmor is not on in this kernel",
        "container c: isolator example.com/odd is not enforced: not known here",
        "container c: isolator resource/block-iops is not enforced: no disk",
        "container c: isolator resource/cpu is not enforced: the cgroup controller cpu is not available here",
    )
    stage1.read(stage1.json.dumps(made))  # nothing is left that it would refuse
    again, said = without_unenforceable(made, "linux", node)
    assert (again, said) == (made, ())
    assert without_unenforceable(whole(obj, config), "a-stage1-image", node)[1] == ()


def test_the_node_s_profile_where_there_is_none() -> None:
    obj = pod(context(appArmorProfile={"type": "RuntimeDefault"}))
    on = {lsm.APPARMOR: ""}
    assert without_unenforceable(whole(obj), "linux", Facts(labels=on, default_profile=True))[1] == ()
    _, said = without_unenforceable(whole(obj), "linux", Facts(labels=on))
    assert said == (
        "container c: isolator os/linux/apparmor-profile is not enforced: this node has no profile gantry-default",
    )
    with_own = whole(pod(context(appArmorProfile=PROFILE)))
    assert without_unenforceable(with_own, "linux", Facts(labels=on))[1] == ()


def test_in_a_machine_other_things_cannot_be_enforced() -> None:
    config = image(("resource/block-iops", {"default": True, "limit": 5}), ("resource/cpu", {"limit": "1"}))
    _, said = without_unenforceable(whole(pod(), config), "kvm", Facts(frozenset({"cpu"})))
    assert said == (
        "container c: isolator resource/block-iops is not enforced: a virtual machine has no disk of its own",
    )


def test_the_facts_of_this_machine(tmp_path: Path) -> None:
    found = facts(tmp_path)
    assert set(found.labels) == {lsm.APPARMOR, lsm.SELINUX}
    assert found.missing <= {"cpu", "memory", "pids", "blkio"}


def test_the_controllers_of_both_versions(tmp_path: Path) -> None:
    assert controllers(Layout(1, {"cpu": "/x", "blkio": "/y"})) == {"cpu", "blkio"}
    (tmp_path / "cgroup.controllers").write_text("cpuset cpu io memory\n")
    assert controllers(Layout(2, {"": f"{tmp_path}/gantry"})) == {"cpuset", "cpu", "blkio", "memory"}


def test_the_flag() -> None:
    assert settings(parser().parse_args([]), {}).rules.unenforceable == "refuse"
    assert settings(parser().parse_args(["--unenforceable", "report"]), {}).rules.unenforceable == "report"


async def test_the_default_profile_is_loaded_once(tmp_path: Path) -> None:
    loaded, parser_program = tmp_path / "profiles", tmp_path / "parser"
    loaded.write_text("other (enforce)\n")
    parser_program.write_text(
        f"#!/bin/sh\ncat > {tmp_path}/given; echo 'gantry-default (enforce)' >> {loaded}\n"
    )
    parser_program.chmod(stat.S_IRWXU)
    await apparmor.ensure_default(loaded, str(parser_program))
    assert (tmp_path / "given").read_text() == apparmor.PROFILE
    (tmp_path / "given").unlink()
    await apparmor.ensure_default(loaded, str(parser_program))
    assert not (tmp_path / "given").exists()
    loaded.write_text("")
    with pytest.raises(apparmor.ProfileError, match="install apparmor"):
        await apparmor.ensure_default(loaded, "no-such-program")
    parser_program.write_text("#!/bin/sh\necho syntax error >&2; exit 1\n")
    with pytest.raises(apparmor.ProfileError, match="syntax error"):
        await apparmor.ensure_default(loaded, str(parser_program))


async def test_a_node_has_it_for_all_or_not(tmp_path: Path) -> None:
    loaded, own = tmp_path / "profiles", tmp_path / "current"
    loaded.write_text("gantry-default (enforce)\n")
    own.write_text("unconfined\n")
    assert await apparmor.has_default(loaded, "none", own)
    own.write_text("docker-default (enforce)\n")
    assert not await apparmor.has_default(loaded, "none", own)
    own.write_text("unconfined\n")
    loaded.write_text("")
    assert not await apparmor.has_default(loaded, "no-such-program", own)
    assert not await apparmor.has_default(loaded, "none", tmp_path / "missing")


def test_who_gets_the_node_s_profile_unasked() -> None:
    def profile(container: dict[str, Any], flavor: str = "linux", *, has: bool = True) -> str:
        obj = pod(container)
        level = pod_level(obj, NODE, flavor, "/t", default_profile=has)
        made = app_entry(level, obj["spec"]["containers"][0], "i", ImageConfig(), Identity(0, 0))
        found = {one["name"]: one["value"] for one in made["app"]["isolators"]}
        return str(found.get("os/linux/apparmor-profile", {}).get("profile", ""))

    assert [profile({}, flavor) for flavor in ("linux", "nspawn", "fly", "kvm")] == ["gantry-default"] * 2 + [
        ""
    ] * 2
    assert profile({}, has=False) == ""
    assert profile(context(privileged=True)) == ""
    assert profile(context(appArmorProfile={"type": "Unconfined"})) == ""
    assert profile(context(appArmorProfile=PROFILE)) == "k8s-web"
    assert profile(context(privileged=True, appArmorProfile=PROFILE)) == "k8s-web"


@pytest.mark.root
@pytest.mark.system
async def test_a_pod_runs_without_and_says_so(make_host: Any) -> None:
    host = make_host(rules=Rules(unenforceable=REPORT), facts=OFF)
    host.keeper.start()
    try:
        notes = {"kubernetes.io/egress-bandwidth": "1M"}
        task = host.run({"run": "echo ran; sleep 1000", **context(appArmorProfile=PROFILE)}, notes=notes)
        running = await host.until(task, lambda report: report.state == "TASK_RUNNING")
        lines = [
            NETWORK,
            "container c0: isolator os/linux/apparmor-profile is not enforced: AppArmor is not on in this kernel",
        ]
        (condition,) = [
            one for one in running.status["conditions"] if one["type"] == "gantry.io/IsolatorsEnforced"
        ]
        assert (condition["status"], condition["reason"]) == ("False", "IsolatorNotEnforced")
        assert condition["message"] == running.status["message"] == "; ".join(lines)
        told = [e.message for r in host.reports[task] for e in r.events if e.reason == "IsolatorNotEnforced"]
        assert told == lines
    finally:
        await host.close()


@pytest.mark.root
@pytest.mark.system
async def test_a_pod_is_refused(make_host: Any) -> None:
    host = make_host(facts=OFF)
    try:
        with pytest.raises(EnforceError, match="Cannot enforce AppArmor"):
            host.run({"run": "true", **context(appArmorProfile=PROFILE)})
    finally:
        await host.close()


@pytest.mark.root
@pytest.mark.system
@pytest.mark.parametrize("field", ["hostPID", "hostIPC"])
async def test_namespaces_of_the_node(make_host: Any, field: str) -> None:
    """As the whole pod has them; a flavor that cannot says so at once."""
    host = make_host()
    host.keeper.start()
    kind = {"hostPID": "pid", "hostIPC": "ipc"}[field]
    try:
        task = host.run({"run": f"readlink /proc/self/ns/{kind}"}, **{field: True})
        assert (await host.end(task)).state == "TASK_FINISHED"
        assert (await host.log("p")).strip() == os.readlink(f"/proc/self/ns/{kind}")
        with pytest.raises(ValueError, match=f"{field}: flavor nspawn always has a namespace of its own"):
            host.run({"run": "true"}, supplies=Supplies("nspawn"), runtimeClassName="nspawn", **{field: True})
        for flavor in ("fly", "nspawn"):
            with pytest.raises(ValueError, match=f"hostUsers: flavor {flavor} has no user namespace"):
                host.run({"run": "true"}, supplies=Supplies(flavor), runtimeClassName=flavor, hostUsers=False)
    finally:
        await host.close()
