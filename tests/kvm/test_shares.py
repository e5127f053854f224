"""What of a pod's volumes its machine is given. Pure."""

from typing import Any

import pytest

from executor.kvm import machine, shares
from executor.stage1 import manifest


def pod(*apps: list[tuple[str, str, str]], kind: str = "host", points: Any = ()) -> dict[str, Any]:
    """apps: of each its mounts: volume, sub path, "rw" or "ro"."""
    names = dict.fromkeys(volume for mounts in apps for volume, _, _ in mounts)
    return {
        "acVersion": "0.8.11",
        "acKind": "PodManifest",
        "apps": [
            {
                "name": f"app{number}",
                "app": {"exec": ["/x"], "mountPoints": list(points)},
                "mounts": [
                    {"volume": volume, "path": f"/{n}", "gantry.io/sub-path": path, "readOnly": how == "ro"}
                    for n, (volume, path, how) in enumerate(mounts)
                ],
            }
            for number, mounts in enumerate(apps)
        ],
        "volumes": [
            {"name": name, "kind": kind, **({"source": f"/srv/{name}"} if kind == "host" else {})}
            for name in (*names, "nobody-s")
        ],
    }


def given(asked: dict[str, Any]) -> list[tuple[str, str, bool]]:
    return [(part.volume["name"], part.sub_path, part.read_only) for part in shares.parts(asked)]


def in_guest(asked: dict[str, Any]) -> list[tuple[str, str, bool]]:
    """Where apps find them, as the guest's stage1 reads it: a part's sub path, what comes below, read-only."""
    made = manifest._pod(machine.guest_manifest(asked, {}))
    found = {part.name: part for part in shares.parts(asked)}
    assert {name: volume.source for name, volume in made.volumes.items()} == {
        name: f"/share/volumes/{name}" for name in found
    }
    return [
        (found[mount.volume].sub_path, mount.sub_path, mount.read_only)
        for app in made.apps.values()
        for mount in app.mounts
    ]


@pytest.mark.parametrize(
    ("mounts", "parts", "seen"),
    [
        ([("v", "", "rw")], [("v", "", False)], [("", "", False)]),
        ([("v", "a", "rw")], [("v", "a", False)], [("a", "", False)]),
        ([("v", "/a//b/.", "ro")], [("v", "a/b", True)], [("a/b", "", True)]),
        (
            [("v", "a", "rw"), ("v", "a/b/c", "ro"), ("v", "ab", "ro")],
            [("v", "a", False), ("v", "ab", True)],
            [("a", "", False), ("a", "b/c", True), ("ab", "", True)],
        ),
        ([("v", "a", "ro"), ("v", "", "rw")], [("v", "", False)], [("", "a", True), ("", "", False)]),
        (
            [("v", "a", "rw"), ("v", "a/../..", "rw")],
            [("v", "a", False), ("v", "a/../..", False)],
            [("a", "", False), ("a/../..", "", False)],
        ),
    ],
    ids=["whole", "path", "odd", "below", "both", "dots"],
)
def test_only_what_is_mounted_is_given(mounts: Any, parts: Any, seen: Any) -> None:
    assert given(pod(mounts)) == parts, "and nothing of a volume that nobody mounts"
    assert in_guest(pod(mounts)) == seen


def test_all_apps_count() -> None:
    asked = pod([("v", "a/b", "ro")], [("v", "a", "ro")], [("w", "", "ro")])
    assert given(asked) == [("v", "a", True), ("w", "", True)]
    assert in_guest(asked) == [("a", "b", True), ("a", "", True), ("", "", True)]
    names = [part.name for part in shares.parts(asked)]
    one_more = pod([("v", "a/b", "ro")], [("v", "0", "ro"), ("v", "a", "rw")], [("w", "", "ro")])
    assert len({*names, *(part.name for part in shares.parts(one_more))}) == 4, (
        "what is another part has another name"
    )
    assert {part.name for part in shares.parts(one_more) if part.volume["name"] == "w"} <= {*names}


def test_the_pod_s_own_volumes_are_given_as_they_are() -> None:
    """What is in them may be made by one app for another, by the time that one starts."""
    asked = pod([("v", "a", "rw")], kind="empty")
    assert given(asked) == [("v", "", False), ("nobody-s", "", True)]
    assert in_guest(asked) == [("", "a", False)]


def test_mount_points_take_the_volume_of_their_name() -> None:
    point = {"name": "v", "path": "/point", "readOnly": True}
    asked = pod([], points=[point])
    asked["volumes"].append({"name": "v", "kind": "host", "source": "/srv/v"})
    assert given(asked) == [("v", "", True)]
    assert in_guest(asked) == [("", "", True)]
