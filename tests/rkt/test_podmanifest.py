"""From a command line to a PodManifest."""

import pytest

from executor.rkt.apps import App, Apps
from executor.rkt.flags import Failure
from executor.rkt.podmanifest import (
    Environments,
    Fill,
    Source,
    app_name,
    build,
    ours,
    resolv_conf,
    settle,
    unrestrict,
)
from executor.stage1 import caps, manifest

NONE = Environments()


def image(name="example.com/box", docker=False, **app):
    body = {"exec": ["/bin/app", "-x"], "user": "5", "group": "6", **app}
    return Source({"name": name, "labels": [], "app": body}, "sha512-1", docker)


def made(app, source, environments=NONE, apps=None):
    apps = apps or Apps()
    apps.apps.append(app)
    pod, _ = build(apps, [source], environments, "linux")
    return pod["apps"][0]


def test_the_image_says_what_the_command_line_does_not():
    entry = made(App("x"), image(workingDirectory="/w", supplementaryGIDs=[9]))
    assert entry["name"] == "box"
    assert entry["app"] == {
        "exec": ["/bin/app", "-x"], "user": "5", "group": "6", "workingDirectory": "/w", "supplementaryGIDs": [9],
        "environment": [], "isolators": [],
    }  # fmt: skip


def test_arguments_are_appended_and_exec_replaces():
    assert made(App("x", args=["1"]), image())["app"]["exec"] == ["/bin/app", "-x", "1"]
    assert made(App("x", args=["1"], texts={"exec": "/y"}), image())["app"]["exec"] == ["/y", "1"]
    bare = Source({"name": "a/b", "labels": []}, "sha512-1", False)
    assert made(App("x", texts={"exec": "/y"}), bare)["app"]["user"] == "0"
    with pytest.raises(Failure, match="has no app section and --exec"):
        made(App("x"), bare)


def test_the_order_of_environments():
    own = [{"name": name, "value": "image"} for name in "BCDE"]
    environments = Environments(
        parent=dict.fromkeys("AB", "parent"),
        file=dict.fromkeys("CDE", "file"),
        explicit=dict.fromkeys("DE", "set-env"),
    )
    entry = made(App("x", environment={"E": "environment"}), image(environment=own), environments)
    found = {e["name"]: e["value"] for e in entry["app"]["environment"]}
    assert found == {"A": "parent", "B": "image", "C": "file", "D": "set-env", "E": "environment"}


def isolators(entry):
    return {one["name"]: one["value"] for one in entry["app"]["isolators"]}


def test_isolators_of_the_command_line_replace_the_images():
    own = [
        {"name": "resource/memory", "value": {"limit": "1G"}},
        {"name": "os/linux/capabilities-retain-set", "value": {"set": ["CAP_KILL"]}},
        {"name": "os/linux/seccomp-retain-set", "value": {"set": ["@appc.io/all"]}},
    ]
    asked = {
        "resource/memory": {"limit": "1M"},
        "os/linux/capabilities-remove-set": {"set": ["CAP_CHOWN"]},
        "os/linux/seccomp-remove-set": {"set": ["chmod"]},
    }
    assert isolators(made(App("x", isolators=dict(asked)), image(isolators=own))) == asked
    both = {f"os/linux/capabilities-{mode}-set": {"set": []} for mode in ("retain", "remove")}
    with pytest.raises(Failure, match="cannot use both --caps-retain and --caps-remove"):
        made(App("x", isolators=both), image())


def test_insecure_options():
    def run(insecure, flavor="linux"):
        own = [{"name": "os/linux/capabilities-remove-set", "value": {"set": ["CAP_KILL"]}}]
        pod = {"apps": [made(App("x"), image(isolators=own))], "annotations": []}
        unrestrict(pod, insecure, flavor)
        return pod

    [entry] = run({"capabilities", "seccomp"})["apps"]
    assert isolators(entry) == {
        "os/linux/capabilities-retain-set": {"set": list(caps.NAMES)},
        "os/linux/seccomp-retain-set": {"set": ["@appc.io/all"]},
    }
    assert entry["annotations"] == []
    [entry] = run({"capabilities", "seccomp", "paths"})["apps"]
    assert entry["annotations"] == [{"name": "gantry.io/privileged", "value": "true"}]
    pod = run({"image", "paths"})
    assert pod["apps"][0]["annotations"] == [{"name": "gantry.io/proc-mount", "value": "unmasked"}]
    assert pod["annotations"] == [{"name": "gantry.io/user-namespace", "value": "private"}]
    assert run({"paths"}, "fly")["annotations"] == []
    with pytest.raises(Failure, match="insecure-options=paths"):
        run({"paths"}, "nspawn")


def test_mounts_are_the_apps_the_pods_and_then_the_images():
    points = [{"name": "data", "path": "/data", "readOnly": True}, {"name": "logs", "path": "/logs"}]
    apps = Apps(
        mounts=[("v", "/all"), ("v", "/data/")],
        volumes={n: {"name": n, "kind": "empty"} for n in ("v", "logs")},
    )
    entry = made(App("x", mounts=[("logs", "/all")]), image(mountPoints=points), apps=apps)
    assert entry["mounts"] == [
        {"volume": "logs", "path": "/all"},
        {"volume": "v", "path": "/data/"},
        {"volume": "logs", "path": "/logs"},
    ]


@pytest.mark.parametrize("docker", [False, True])
def test_a_mount_point_without_volume_gets_one(docker):
    apps = Apps(apps=[App("x")])
    source = image(docker=docker, mountPoints=[{"name": "data", "path": "/data"}])
    pod, fills = build(apps, [source], NONE, "linux")
    assert [volume["name"] for volume in pod["volumes"]] == ["box-data"]
    assert fills == ([Fill("box-data", "box", "/data")] if docker else [])
    assert manifest.read(__import__("json").dumps(pod)).apps["box"].mounts[0].path == "/data"


@pytest.mark.parametrize(
    ("app", "source", "message"),
    [
        (App("x", mounts=[("v", "/x")]), image(), "there is no volume 'v'"),
        (App("x", texts={"name": "Not_One"}), image(), "invalid app name format"),
    ],
)
def test_what_cannot_be_is_refused(app, source, message):
    with pytest.raises(Failure, match=message):
        made(app, source)


def test_two_apps_of_one_name():
    with pytest.raises(Failure, match="multiple apps with name box"):
        build(Apps(apps=[App("x"), App("y")]), [image(), image()], NONE, "linux")


def test_host_volumes_are_recursive_but_under_fly():
    for flavor, recursive in (("linux", True), ("fly", False)):
        apps = Apps(apps=[App("x")], volumes={"v": {"name": "v", "kind": "host", "source": "/s"}})
        assert build(apps, [image()], NONE, flavor)[0]["volumes"][0]["recursive"] is recursive


@pytest.mark.parametrize(
    ("name", "flavor"),
    [
        ("coreos.com/rkt/stage1-coreos", "linux"),
        ("coreos.com/rkt/stage1-coreos:1.30.0", "linux"),
        ("coreos.com/rkt/stage1-fly", "fly"),
        ("stage1-fly.aci", "fly"),
        ("coreos.com/rkt/stage1-kvm:1.30.0", "kvm"),
        ("nspawn", "nspawn"),
        ("linux", "linux"),
    ],
)
def test_stage1_images_are_flavors(name, flavor):
    assert ours(name) == flavor


@pytest.mark.parametrize(
    "name", ["example.com/stage1", "coreos.com/rkt/stage1-odd", "odd", "example.com/stage1-fly"]
)
def test_other_stage1_images_are_none_of_ours(name):
    assert ours(name) == ""


def test_names_of_apps():
    assert app_name("quay.io/coreos/Etcd_2.x") == "etcd-2-x"
    with pytest.raises(Failure, match="give --name"):
        app_name("a/_")


@pytest.mark.parametrize(
    ("docker", "directory", "flag", "notes"),
    [(False, "/w", "", ["exists"]), (False, "/", "", []), (False, "/w", "/v", []), (True, "/w", "", [])],
)
def test_an_aci_s_own_working_directory_has_to_be_there(docker, directory, flag, notes):
    app = App("x", texts={"working-dir": flag} if flag else {})
    entry = made(app, image(docker=docker, workingDirectory=directory))
    assert [note["value"] for note in entry["annotations"]] == notes


def test_settled_annotations_replace_what_was_there():
    pod = {"annotations": [{"name": "gantry.io/host-network", "value": "true"}, {"name": "x", "value": "y"}]}
    settle(pod, host_network="", hostname="h")
    assert pod["annotations"] == [{"name": "x", "value": "y"}, {"name": "gantry.io/hostname", "value": "h"}]


def test_resolv_conf():
    assert resolv_conf(["1.1.1.1", "8.8.8.8"], "d", ["a", "b"], ["ndots:1"]) == (
        "search a b\nnameserver 1.1.1.1\nnameserver 8.8.8.8\noptions ndots:1\ndomain d\n"
    )
