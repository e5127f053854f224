"""What is read from a stage1's manifest, the arguments by interface version, and what a pod may ask for. Pure."""

import json
import uuid
from pathlib import Path
from typing import Any

import pytest

from executor.contract import interface
from executor.contract.interface import ContractError, Run, Stage1
from executor.contract.manifest import convert, image_id, refusal

UUID = "6f0c8ed6-2d5b-4f6e-9c63-0a4c3df0f2a1"
EVERYTHING = Run(
    net="default,n2:A=b",
    hostname="h",
    interactive=True,
    private_users="65536:65536",
    mds_token="t",
    local_config="/etc/rkt",
    unrestricted_capabilities=True,
    unrestricted_paths=True,
    unrestricted_seccomp=True,
    resolv="stage0",
    hosts="host",
    ipc="parent",
    debug=True,
)
FIRST = [
    "--debug", "--net=default,n2:A=b", "--interactive", "--private-users=65536:65536", "--mds-token=t",
    "--local-config=/etc/rkt",
]  # fmt: skip
LATER = {
    2: ["--hostname=h"],
    3: ["--disable-capabilities-restriction", "--disable-paths", "--disable-seccomp"],
    4: ["--dns-conf-mode=resolv=stage0,hosts=host"],
    5: [],
    6: ["--ipc=parent"],
}
MUTABLE = ("app/add", "app/start", "app/stop", "app/rm")


def manifest(version: str | None = None, *entrypoints: str, **more: str) -> str:
    notes = {interface.PREFIX + name: f"/ex/{name}" for name in ("run", "gc", *entrypoints)} | more
    if version is not None:
        notes[interface.PREFIX + "interface-version"] = version
    return json.dumps({"annotations": [{"name": name, "value": value} for name, value in notes.items()]})


def stage1(version: int = 6, *entrypoints: str) -> Stage1:
    return interface.read("x", manifest(str(version), *entrypoints))


@pytest.mark.parametrize("version", [1, 2, 3, 4, 5, 6])
def test_arguments_by_interface_version(version: int) -> None:
    arguments, warnings = interface.run_arguments(stage1(version), EVERYTHING, UUID)
    known = [one for since, added in LATER.items() if since <= version for one in added]
    unknown = [one for since, added in LATER.items() if since > version for one in added]
    assert arguments[: len(FIRST)] == FIRST
    assert sorted(arguments[len(FIRST) : -1]) == sorted(known)
    assert arguments[-1] == UUID
    assert len(warnings) == len(unknown)
    for argument in unknown:
        assert any(argument.partition("=")[0] in warning for warning in warnings)


def test_defaults_are_not_passed() -> None:
    assert interface.run_arguments(stage1(), Run(local_config=""), UUID) == (["--net=none", UUID], [])


def test_mutable_is_for_those_that_can() -> None:
    can = stage1(5, *MUTABLE)
    assert can.mutable
    assert interface.run_arguments(can, Run(mutable=True), UUID)[0][-2:] == ["--mutable", UUID]
    for missing in MUTABLE:
        cannot = stage1(5, *(one for one in MUTABLE if one != missing))
        assert not cannot.mutable
        with pytest.raises(ContractError, match="does not run mutable pods"):
            interface.run_arguments(cannot, Run(mutable=True), UUID)


def test_the_other_entrypoints() -> None:
    assert interface.gc_arguments(stage1(4), UUID) == [UUID]
    assert interface.gc_arguments(stage1(5), UUID) == ["--local-config", "/etc/rkt", UUID]
    assert interface.stop_arguments(UUID, force=False) == [UUID]
    assert interface.stop_arguments(UUID, force=True) == ["--force", UUID]
    assert interface.enter_arguments(7, "app", ["ls", "--pid=1"]) == [
        "--pid=7",
        "--appname=app",
        "--",
        "ls",
        "--pid=1",
    ]
    assert interface.app_arguments("add", UUID, "a") == ["--debug=false", f"--uuid={UUID}", "--app=a"]
    assert interface.app_arguments("rm", UUID, "a") == ["--debug=false", "--app=a"]


def test_without_a_version_it_is_the_first() -> None:
    assert interface.read("x", manifest()).version == 1


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[]", "not an appc image manifest"),
        ("nonsense", "not an appc image manifest"),
        ('{"annotations": [{"name": "a"}]}', "not an appc image manifest"),
        ("{}", "no stage1 image, it has no annotation coreos.com/rkt/stage1/run"),
        (manifest("7"), "interface version '7' is not one of 1 to 6"),
        (manifest("0"), "interface version '0'"),
        (manifest("five"), "interface version 'five'"),
        (manifest(**{interface.PREFIX + "enter": "enter"}), "enter: 'enter' is not a path in the image"),
        (manifest(**{interface.PREFIX + "run": "/../../bin/sh"}), "is not a path in the image"),
    ],
)
def test_what_is_no_stage1(text: str, message: str) -> None:
    with pytest.raises(ContractError, match=r"^stage1 x: ") as failed:
        interface.read("x", text)
    assert message in str(failed.value)


def test_every_pod_has_a_uuid() -> None:
    assert interface.pod_uuid(UUID) == UUID
    made = interface.pod_uuid(f"{UUID}.1")
    assert uuid.UUID(made).version == 5
    assert made == interface.pod_uuid(f"{UUID}.1") != interface.pod_uuid(f"{UUID}.2")


def test_image_ids_are_appcs() -> None:
    assert image_id("sha512-0abc") == "sha512-0abc"
    assert len(image_id("sha256:" + "0" * 64)) == len("sha512-") + 128


# --- pods


def pod(*containers: dict[str, Any], **spec: Any) -> dict[str, Any]:
    made = [{"name": f"c{number}", **one} for number, one in enumerate(containers or ({},))]
    return {"spec": {"containers": made, **spec}}


PROBE = {"exec": {"command": ["true"]}}
WITH_ENTER = stage1(5, "enter")


@pytest.mark.parametrize(
    ("asked", "reason"),
    [
        (pod(), ""),
        (pod({"livenessProbe": PROBE}), ""),
        (pod({}, {}, restartPolicy="Never"), ""),
        (pod({}, {}), "a pod of several containers needs restartPolicy Never"),
        (pod({}, {}, restartPolicy="OnFailure"), "needs restartPolicy Never"),
        (pod(initContainers=[{"name": "i"}]), "the pod may have no initContainers"),
        (
            pod({"startupProbe": PROBE}, {}, restartPolicy="Never"),
            "container c0 of several may have no startupProbe",
        ),
        (pod({"tty": True}), "container c0 has tty"),
        (pod(securityContext={"sysctls": [{"name": "net.x", "value": "1"}]}), "securityContext.sysctls"),
        (
            pod({"securityContext": {"seccompProfile": {"type": "Localhost"}}}),
            "seccompProfile.type Localhost",
        ),
    ],
)
def test_what_an_immutable_one_cannot_do(asked: dict[str, Any], reason: str) -> None:
    said = refusal(WITH_ENTER, asked)
    assert (reason in said) if reason else not said


def test_a_mutable_one_can() -> None:
    mutable = stage1(5, "enter", *MUTABLE)
    assert refusal(mutable, pod({"livenessProbe": PROBE}, {}, initContainers=[{"name": "i"}])) == ""


@pytest.mark.parametrize(
    ("container", "what"),
    [
        ({"readinessProbe": PROBE}, "readinessProbe.exec"),
        ({"lifecycle": {"preStop": PROBE}}, "lifecycle.preStop.exec"),
        ({"readinessProbe": {"httpGet": {"port": 1}}}, ""),
    ],
)
def test_what_needs_enter(container: dict[str, Any], what: str) -> None:
    said = refusal(stage1(5), pod(container))
    assert (f"container c0 has {what}" in said) if what else not said


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"isolators": [{"name": "os/unix/sysctl", "value": {}}]}, "pod: isolator os/unix/sysctl"),
        (
            {"volumes": [{"name": "v", "kind": "host", "source": "/", "gantry.io/layers": ["/x"]}]},
            "an image as a volume",
        ),
    ],
)
def test_what_it_cannot_be_told_of(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ContractError, match=r"^stage1 x: ") as failed:
        convert(WITH_ENTER, json.dumps(raw() | change), Path("/pods/p"))
    assert message in str(failed.value)


@pytest.mark.parametrize(
    "name",
    ["gantry.io/seccomp-profile", "resource/block-iops", "os/linux/apparmor-profile", "example.com/new"],
)
def test_isolators_are_enforced_or_refused(name: str) -> None:
    with pytest.raises(ContractError, match=f"app a: isolator {name}: no stage1"):
        convert(WITH_ENTER, json.dumps(raw(isolators=[{"name": name, "value": {}}])), Path("/pods/p"))


def test_the_pods_limits_are_what_its_apps_have_together() -> None:
    limited = [
        {"name": "resource/memory", "value": {"limit": "64Mi"}},
        {"name": "resource/cpu", "value": {"request": "250m", "limit": "500m"}},
        {"name": "gantry.io/pids", "value": {"limit": 10}},
        {"name": "gantry.io/rlimits", "value": {"nofile": {"soft": 64}}},
    ]
    one = convert(WITH_ENTER, json.dumps(raw(isolators=limited)), Path("/pods/p"))
    assert (one.limits.memory_limit, one.limits.cpu_limit_milli, one.limits.pids) == (64 << 20, 500, 10)
    assert one.rlimits == ((7, 64, 64),)
    assert "gantry.io" not in json.dumps(one.manifest)
    unlimited = raw(isolators=limited)
    unlimited["apps"].append({**raw()["apps"][0], "name": "b"})
    with pytest.raises(ContractError, match="the same rlimits"):
        convert(WITH_ENTER, json.dumps(unlimited), Path("/pods/p"))
    limited.pop()
    unlimited = raw(isolators=limited)
    unlimited["apps"].append({**raw()["apps"][0], "name": "b"})
    assert convert(WITH_ENTER, json.dumps(unlimited), Path("/pods/p")).limits.memory_limit is None


def raw(**app: Any) -> dict[str, Any]:
    body = {"exec": ["/x"], "user": "0", "group": "0", **app}
    entry = {"name": "a", "image": {"id": "sha512-00"}, "app": body}
    return {"acVersion": "0.8.11", "acKind": "PodManifest", "apps": [entry]}
