"""A v1 Pod as an appc PodManifest."""

import os
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from executor.mesos import lowest_oom_score
from executor.pods.env import ConfigError, Node
from executor.pods.gpus import Devices
from executor.pods.isolators import (
    ALL_CAPABILITIES,
    DEFAULT_CAPABILITIES,
    capabilities,
    isolators,
    oom_score_adj,
    qos_class,
    resource_isolators,
)
from executor.pods.manifest import app_entry, choose_flavor, pod_level, pod_manifest, stop_signal
from executor.pods.rules import Rules
from executor.pods.users import Identity, resolve
from executor.stage0.config import ImageConfig

NODE = Node("node-1", "10.0.0.1", Fraction(4), 8 << 30)


def pod(*containers: dict[str, Any], **spec: Any) -> dict[str, Any]:
    made = [
        {"name": f"c{n}", "image": "busybox", "command": ["/bin/true"], **c}
        for n, c in enumerate(containers or ({},))
    ]
    return {
        "metadata": {"name": "web", "namespace": "default", "uid": "u-1"},
        "spec": {"containers": made, **spec},
    }


def entry(container: dict[str, Any], config: ImageConfig | None = None, **spec: Any) -> dict[str, Any]:
    obj = pod(container, **spec)
    level = pod_level(obj, NODE, "linux", "/pods/run/u-1.1/termination")
    return app_entry(level, obj["spec"]["containers"][0], "sha256:1", config or ImageConfig(), Identity(0, 0))


def notes(made: dict[str, Any]) -> dict[str, str]:
    return {note["name"]: note["value"] for note in made["annotations"]}


def isolator(made: dict[str, Any], name: str) -> Any:
    return {i["name"]: i["value"] for i in made["app"]["isolators"]}.get(name)


def test_the_pod_level() -> None:
    level = pod_level(pod(), NODE, "fly", "/t")
    made = pod_manifest(level, [])
    assert (made["acKind"], made["apps"]) == ("PodManifest", [])
    assert notes(made) == {"gantry.io/flavor": "fly", "gantry.io/hostname": "web"}
    host = pod_level(pod(hostNetwork=True), NODE, "linux", "/t")
    assert notes(pod_manifest(host, [])) == {
        "gantry.io/flavor": "linux",
        "gantry.io/host-network": "true",
        "gantry.io/processes": "own",
    }
    assert (host.pod_ip, level.pod_ip) == ("10.0.0.1", "")
    own = notes(pod_manifest(pod_level(pod(), NODE, "linux", "/t"), []))
    assert (own["gantry.io/network"], own["gantry.io/tenant"]) == ("loopback", "default")
    rules = Rules(reuse_namespaces=False)
    kept = notes(pod_manifest(pod_level(pod(), NODE, "linux", "/t", rules=rules), []))
    assert not {"gantry.io/network", "gantry.io/tenant"} & set(kept)


@pytest.mark.parametrize(
    ("spec", "flavor", "own"),
    [
        ({}, "linux", True),
        ({}, "nspawn", True),
        ({}, "kvm", True),
        ({"shareProcessNamespace": False}, "linux", True),
        ({"shareProcessNamespace": True}, "linux", False),
        ({"hostPID": True}, "linux", False),
        ({"hostPID": True, "shareProcessNamespace": False}, "linux", False),
        ({}, "fly", False),
        ({"shareProcessNamespace": False}, "fly", False),
        ({}, "example.com/stage1", False),
    ],
)
def test_whose_processes_the_containers_have(spec: dict[str, Any], flavor: str, own: bool) -> None:
    told = notes(pod_manifest(pod_level(pod(**spec), NODE, flavor, "/t"), []))
    assert told.get("gantry.io/processes") == ("own" if own else None)


def test_the_handler_names_the_flavor() -> None:
    asked = pod(runtimeClassName="quick")
    assert choose_flavor(pod(), "", "linux") == "linux"
    assert choose_flavor(asked, "fly", "linux") == "fly"
    assert choose_flavor(pod(runtimeClassName="fly"), "", "linux") == "fly", "its class is no more"
    for handler in ("gvisor", ""):
        with pytest.raises(
            ValueError, match=r"RuntimeClass \"quick\": its handler '(gvisor|quick)' is no stage1"
        ):
            choose_flavor(asked, handler, "linux")
    assert choose_flavor(asked, "kvm", "linux", ("linux", "kvm")) == "kvm"


def test_volumes_of_ours_never_meet_those_of_a_pod() -> None:
    named = [{"name": name, "emptyDir": {}} for name in ("termination-c0", "device-nvidia0")]
    devices = {"c0": Devices(("/dev/nvidia0", "/dev/nvidiactl"), (0,))}
    level = pod_level(pod({"name": "c0", "image": "x"}, volumes=named), NODE, "linux", "/t", devices)
    names = [one["name"] for one in pod_manifest(level, [])["volumes"]]
    assert len(names) == len(set(names)) == 5


@pytest.mark.parametrize(
    ("spec", "name", "hostname"),
    [({}, "web", "web"), ({"hostname": "h"}, "web", "h"), ({}, "a" * 62 + "-b", "a" * 62)],
)
def test_hostname(spec: dict[str, Any], name: str, hostname: str) -> None:
    obj = pod(**spec)
    obj["metadata"]["name"] = name
    assert pod_level(obj, NODE, "linux", "/t").hostname == hostname


@pytest.mark.parametrize(
    ("limits", "asked", "size"),
    [
        ((None,), {}, NODE.memory),
        ((None,), {"sizeLimit": "0"}, NODE.memory),
        (("64Mi", "32Mi"), {}, 96 << 20),
        (("64Mi", None), {}, NODE.memory),
        (("64Mi",), {"sizeLimit": "1Mi"}, 1 << 20),
        (("64Mi",), {"sizeLimit": "65Mi"}, 64 << 20),
    ],
)
def test_the_size_of_a_volume_in_memory(
    limits: tuple[str | None, ...], asked: dict[str, str], size: int
) -> None:
    containers = [{"resources": {"limits": {"memory": one}}} if one else {} for one in limits]
    obj = pod(*containers, volumes=[{"name": "ram", "emptyDir": {"medium": "Memory", **asked}}])
    made = pod_manifest(pod_level(obj, NODE, "linux", "/t"), [])["volumes"][0]
    assert made["gantry.io/size-limit"] == str(size)


def test_volumes_and_mounts() -> None:
    mounts = [
        {"name": "scratch", "mountPath": "/scratch"},
        {"name": "ram", "mountPath": "ram", "readOnly": True, "subPath": "a/b"},
        {"name": "host", "mountPath": "/host"},
    ]
    volumes = [
        {"name": "scratch", "emptyDir": {}},
        {"name": "ram", "emptyDir": {"medium": "Memory", "sizeLimit": "1Mi"}},
        {"name": "host", "hostPath": {"path": "/srv"}},
    ]
    obj = pod({"volumeMounts": mounts}, volumes=volumes)
    level = pod_level(obj, NODE, "linux", "/t")
    assert pod_manifest(level, [])["volumes"] == [
        {"name": "scratch", "kind": "empty", "mode": "0777"},
        {
            "name": "ram",
            "kind": "empty",
            "mode": "0777",
            "gantry.io/medium": "Memory",
            "gantry.io/size-limit": "1048576",
        },
        {"name": "host", "kind": "host", "source": "/srv"},
        {"name": "termination.c0", "kind": "host", "source": "/t/c0"},
    ]
    made = entry({"volumeMounts": mounts}, volumes=volumes)
    assert made["mounts"] == [
        {"volume": "scratch", "path": "/scratch"},
        {"volume": "ram", "path": "/ram", "readOnly": True, "gantry.io/sub-path": "a/b"},
        {"volume": "host", "path": "/host"},
        {"volume": "termination.c0", "path": "/dev/termination-log"},
    ]


@pytest.mark.parametrize("volume", [{"nfs": {"path": "/x"}}, {"emptyDir": {"medium": "HugePages"}}, {}])
def test_a_volume_that_is_not_done_is_refused(volume: dict[str, Any]) -> None:
    level = pod_level(pod(volumes=[{"name": "v", **volume}]), NODE, "linux", "/t")
    with pytest.raises(ConfigError, match='volume "v"'):
        pod_manifest(level, [])


def test_an_app() -> None:
    config = ImageConfig(env={"PATH": "/bin", "A": "image"}, working_dir="/w", stop_signal="SIGQUIT")
    made = entry({"env": [{"name": "A", "value": "pod"}]}, config)
    env = {item["name"]: item["value"] for item in made["app"]["environment"]}
    assert env == {"PATH": "/bin", "A": "pod"}
    assert made["app"]["exec"] == ["/bin/true"]
    assert made["app"]["workingDirectory"] == "/w"
    assert made["image"] == {"id": "sha256:1"}
    assert made["readOnlyRootFS"] is False
    assert notes(made) == {"gantry.io/stop-signal": "3"}
    assert isolator(made, "os/linux/capabilities-retain-set") == {"set": sorted(DEFAULT_CAPABILITIES)}
    assert isolator(made, "os/linux/no-new-privileges") is None


def test_an_app_that_wants_more_and_one_that_wants_less() -> None:
    more = entry({"securityContext": {"privileged": True}})
    assert notes(more)["gantry.io/privileged"] == "true"
    assert isolator(more, "os/linux/capabilities-retain-set") == {"set": list(ALL_CAPABILITIES)}
    less = entry({"securityContext": {"allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True}})
    assert isolator(less, "os/linux/no-new-privileges") is True
    assert less["readOnlyRootFS"] is True


@pytest.mark.parametrize(
    ("text", "number"),
    [("", 15), ("SIGTERM", 15), ("term", 15), ("9", 9), ("SIGRTMIN+3", 37), ("SIGUSR1", 10)],
)
def test_stop_signals(text: str, number: int) -> None:
    assert stop_signal(text) == number


@pytest.mark.parametrize("text", ["SIGNOPE", "0", "65", "SIGRTMIN+x", "-1"])
def test_a_stop_signal_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="StopSignal"):
        stop_signal(text)


@pytest.mark.parametrize(
    ("asked", "kept"),
    [
        ({}, set(DEFAULT_CAPABILITIES)),
        ({"add": ["NET_ADMIN", "cap_sys_time"]}, {*DEFAULT_CAPABILITIES, "CAP_NET_ADMIN", "CAP_SYS_TIME"}),
        ({"drop": ["KILL"]}, set(DEFAULT_CAPABILITIES) - {"CAP_KILL"}),
        ({"drop": ["ALL"]}, set()),
        ({"drop": ["ALL"], "add": ["CHOWN"]}, {"CAP_CHOWN"}),
        ({"add": ["ALL"]}, set(ALL_CAPABILITIES)),
        ({"add": ["ALL"], "drop": ["SYS_ADMIN"]}, set(ALL_CAPABILITIES) - {"CAP_SYS_ADMIN"}),
    ],
)
def test_capabilities(asked: dict[str, list[str]], kept: set[str]) -> None:
    assert set(capabilities({"capabilities": asked})) == kept


def test_an_unknown_capability_is_refused() -> None:
    with pytest.raises(ConfigError, match="unknown capability 'FLY'"):
        capabilities({"capabilities": {"add": ["FLY"]}})


@pytest.mark.parametrize(
    ("resources", "made"),
    [
        ({}, {}),
        (
            {"limits": {"cpu": "0.5", "memory": "64Mi"}},
            {
                "cpu": {"request": "500m", "limit": "500m"},
                "memory": {"request": "67108864", "limit": "67108864"},
            },
        ),
        ({"requests": {"cpu": "100m"}}, {"cpu": {"request": "100m"}}),
        (
            {"requests": {"cpu": 1, "memory": "1.5G"}, "limits": {"cpu": "2"}},
            {"cpu": {"request": "1000m", "limit": "2000m"}, "memory": {"request": "1500000000"}},
        ),
        (
            {"limits": {"cpu": "0.0001", "memory": "0.1"}},
            {"cpu": {"request": "1m", "limit": "1m"}, "memory": {"request": "1", "limit": "1"}},
        ),
        ({"requests": {"ephemeral-storage": "1Gi"}}, {}),
    ],
)
def test_resources_become_isolators_exactly(resources: dict[str, Any], made: dict[str, Any]) -> None:
    assert {i["name"].removeprefix("resource/"): i["value"] for i in resource_isolators(resources)} == made


@given(st.integers(1, 10**15))
def test_no_byte_is_lost(size: int) -> None:
    [isolator] = resource_isolators({"limits": {"memory": str(size)}})
    assert isolator["value"] == {"request": str(size), "limit": str(size)}


LIMITED = {"resources": {"limits": {"cpu": "1", "memory": "1Gi"}}}


@pytest.mark.parametrize(
    ("spec", "qos"),
    [
        (pod({})["spec"], "BestEffort"),
        (pod({"resources": {"limits": {"cpu": "0"}}})["spec"], "BestEffort"),
        (pod(LIMITED)["spec"], "Guaranteed"),
        (pod({"resources": {**LIMITED["resources"], "requests": {"cpu": "1000m"}}})["spec"], "Guaranteed"),
        (pod({"resources": {**LIMITED["resources"], "requests": {"cpu": "500m"}}})["spec"], "Burstable"),
        (pod({"resources": {"requests": {"cpu": "1"}}})["spec"], "Burstable"),
        (pod(LIMITED, {})["spec"], "Burstable"),
        (pod(LIMITED, initContainers=[{"name": "i", "image": "b"}])["spec"], "Burstable"),
    ],
)
def test_qos(spec: dict[str, Any], qos: str) -> None:
    assert qos_class(spec) == qos


@pytest.mark.parametrize(
    ("qos", "request_", "score"),
    [
        ("Guaranteed", "4Gi", -997),
        ("BestEffort", None, 1000),
        ("Burstable", "4Gi", 500),
        ("Burstable", "8Gi", 3),
        ("Burstable", None, 999),
    ],
)
def test_oom_score(qos: str, request_: str | None, score: int) -> None:
    resources = {"requests": {"memory": request_}} if request_ else {}
    assert oom_score_adj({"resources": resources}, qos, 8 << 30) == score


@pytest.fixture
def layers(tmp_path: Path) -> list[Path]:
    for name in ("upper", "lower"):
        (tmp_path / name / "etc").mkdir(parents=True)
    (tmp_path / "upper/etc/passwd").write_text(
        "root:x:0:0:root:/root:/bin/sh\nweb:x:101:102::/srv/web:/bin/sh\nbad\n"
    )
    (tmp_path / "lower/etc/passwd").write_text("old:x:5:5::/:/bin/sh\n")
    (tmp_path / "lower/etc/group").write_text("web:x:102:\nlog:x:7:web,root\nmail:x:8:web\n")
    return [tmp_path / "upper", tmp_path / "lower"]


@pytest.mark.parametrize(
    ("image", "context", "identity"),
    [
        ("", {}, Identity(0, 0, (7,))),
        ("web", {}, Identity(101, 102, (7, 8))),
        ("web:log", {}, Identity(101, 7, (8,))),
        ("101:0", {}, Identity(101, 0, (7, 8))),
        ("4711", {}, Identity(4711, 0, ())),
        ("web:log", {"runAsUser": 4711}, Identity(4711, 0, ())),
        ("web", {"runAsGroup": 9}, Identity(101, 9, (7, 8))),
        ("web", {"supplementalGroups": [50, 7]}, Identity(101, 102, (50, 7, 8))),
        ("4711", {"runAsNonRoot": True}, Identity(4711, 0, ())),
    ],
)
def test_users(layers: list[Path], image: str, context: dict[str, Any], identity: Identity) -> None:
    assert resolve({"name": "c"}, pod(securityContext=context), image, (), layers) == identity


def test_the_owner_of_a_file_can_be_meant(layers: list[Path]) -> None:
    os.chown(layers[0] / "etc/passwd", os.getuid(), os.getgid())
    made = resolve({"name": "c"}, pod(), "/etc/passwd:/etc/../etc/passwd", (), layers)
    assert (made.uid, made.gid) == (os.getuid(), os.getgid())


def test_the_containers_word_counts_more_than_the_pods(layers: list[Path]) -> None:
    obj = pod(securityContext={"runAsUser": 1, "runAsGroup": 1})
    made = resolve({"securityContext": {"runAsUser": 2}}, obj, "", (), layers)
    assert (made.uid, made.gid) == (2, 1)


@pytest.mark.parametrize(
    ("image", "context", "says"),
    [
        ("", {"runAsNonRoot": True}, "image will run as root"),
        ("0", {"runAsNonRoot": True}, "image will run as root"),
        ("web", {"runAsNonRoot": True}, "non-numeric user"),
        ("7", {"runAsNonRoot": True, "runAsUser": 0}, "breaks non-root policy"),
        ("nobody", {}, "does not have it"),
        ("/no/such/file", {}, "the image has no such file"),
        ("old", {}, "does not have it"),
        ("web:nope", {}, "does not have it"),
    ],
)
def test_users_that_cannot_be(layers: list[Path], image: str, context: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError, match=says) as error:
        resolve({"name": "c"}, pod(securityContext=context), image, (), layers)
    assert error.value.reason == "CreateContainerConfigError"


@pytest.mark.parametrize(
    ("image", "says"),
    [
        *(
            (text, "they end at 2147483647")
            for text in ("2147483648", "4294967295", "1" * 5000, "7:4294967295")
        ),
        *((text, "they end at 2147483647") for text in ("large", "7:large", "member")),
        *((text, "does not have it") for text in ("²", "7:²", "-1", "odd")),
    ],
)
def test_ids_that_are_none(tmp_path: Path, image: str, says: str) -> None:
    """To setresuid(2), 2^32-1 means that root stays root (compare CVE-2024-40635)."""
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc/passwd").write_text("large:x:4294967295:1::/:\nodd:x:\u0663:1::/:\nmember:x:7:7::/:\n")
    (tmp_path / "etc/group").write_text("large:x:4294967295:member\n")
    with pytest.raises(ConfigError, match=says):
        resolve({"name": "c"}, pod(securityContext={"runAsNonRoot": False}), image, (), [tmp_path])


def test_a_user_in_numbers_is_never_a_name(tmp_path: Path) -> None:
    """Else whoever must not be root could be, by an entry of the image."""
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc/passwd").write_text("7:x:0:0::/:\n")
    (tmp_path / "etc/group").write_text("8:x:0:\n")
    obj = pod(securityContext={"runAsNonRoot": True})
    made = resolve({"name": "c"}, obj, "7:8", (), [tmp_path])
    assert (made.uid, made.gid) == (7, 8)


def test_a_link_in_place_of_passwd_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc/passwd").symlink_to("/etc/passwd")
    with pytest.raises(ConfigError):
        resolve({"name": "c"}, pod(), "root", (), [tmp_path])


def test_the_oom_score_is_no_lower_than_we_may_give():
    guaranteed = {"resources": {"limits": {"cpu": "1", "memory": "64Mi"}}}

    def score(lowest):
        made = isolators(guaranteed, "Guaranteed", 8 << 30, lowest)
        return next(one["value"] for one in made if one["name"] == "os/linux/oom-score-adj")

    assert score(-1000) == -997
    assert score(0) == 0


@pytest.mark.parametrize(("effective", "lowest"), [("000001ffffffffff", -1000), ("000001fffeffffff", 5)])
def test_what_we_may_give_depends_on_cap_sys_resource(tmp_path, effective, lowest):
    (tmp_path / "status").write_text(f"Name:\tx\nCapEff:\t{effective}\n")
    (tmp_path / "oom_score_adj").write_text("5\n")
    assert lowest_oom_score(tmp_path) == lowest


def test_what_an_aci_demands() -> None:
    port = {"name": "www", "port": 80, "protocol": "tcp", "socketActivated": True}
    app = {"exec": ["/x"], "ports": [port, {"name": "other", "port": 1, "protocol": "tcp"}]}
    assert entry({}, ImageConfig(format="aci", app=app))["app"]["ports"] == [port]
    app["ports"] = [{**port, "protocol": "sctp"}]
    with pytest.raises(ConfigError, match="image: port www: 'sctp' cannot be socket-activated"):
        entry({}, ImageConfig(format="aci", app=app))
    app["ports"] = [{"name": "www", "port": 80}]
    config = ImageConfig(format="aci", app=app, working_dir="/w")
    assert notes(entry({}, config))["gantry.io/working-directory"] == "exists"
    assert "gantry.io/working-directory" not in notes(entry({"workingDir": "/v"}, config))
    assert "gantry.io/working-directory" not in notes(entry({}, ImageConfig(working_dir="/w")))


def test_volumes_of_the_image() -> None:
    config = ImageConfig(volumes=("/data", "/cache/", "/etc/x", "/", "/var/lib/db"))
    mounts = [{"name": "v", "mountPath": "/cache"}, {"name": "v", "mountPath": "/var/lib/"}]
    made = entry({"volumeMounts": mounts}, config, volumes=[{"name": "v", "emptyDir": {}}])
    assert made["gantry.io/image-volumes"] == ["/data", "/etc/x"]
    assert "gantry.io/image-volumes" not in entry({})
