"""PodManifests in appc's words alone."""

from typing import Any

import pytest

from executor.metadata.facts import plain
from executor.stage1 import caps

RETAIN, REMOVE = "os/linux/capabilities-retain-set", "os/linux/capabilities-remove-set"


def manifest(*isolators: dict[str, Any], volumes: tuple[str, ...] = ()) -> dict[str, Any]:
    app = {"exec": ["/x"], "user": "0", "group": "0", "isolators": list(isolators)}
    mounts = [{"volume": name, "path": f"/{name}"} for name in volumes]
    return {
        "acKind": "PodManifest",
        "acVersion": "0.8.11",
        "apps": [{"name": "a", "image": {"id": "sha512-ab"}, "app": app, "mounts": mounts}],
        "volumes": [{"name": name, "kind": "empty"} for name in volumes],
    }


@pytest.mark.parametrize(
    ("given", "shown"),
    [
        ([{"name": RETAIN, "value": {"set": []}}], [{"name": REMOVE, "value": {"set": sorted(caps.DEFAULT)}}]),
        ([{"name": REMOVE, "value": {"set": []}}], []),
        ([{"name": RETAIN, "value": {"set": ["CAP_KILL"]}}], [{"name": RETAIN, "value": {"set": ["CAP_KILL"]}}]),
        ([{"name": "gantry.io/seccomp-profile", "value": {}}], []),
        ([{"name": "os/linux/oom-score-adj", "value": 5}], [{"name": "os/linux/oom-score-adj", "value": 5}]),
    ],
)  # fmt: skip
def test_isolators(given: list[dict[str, Any]], shown: list[dict[str, Any]]) -> None:
    """appc's code refuses a manifest for an empty set."""
    assert plain(manifest(*given))["apps"][0]["app"]["isolators"] == shown


def test_volumes_have_names_of_their_own() -> None:
    names = ("data", "termination.a", "Data", "termination-a", "..", "da_ta")
    made = plain(manifest(volumes=names))
    shown = [one["name"] for one in made["volumes"]]
    assert shown == ["data", "termination-a-2", "data-2", "termination-a", "volume", "da-ta"]
    assert [one["volume"] for one in made["apps"][0]["mounts"]] == shown
    assert [one["path"] for one in made["apps"][0]["mounts"]] == [f"/{name}" for name in names]


def test_an_image_s_id_stays() -> None:
    assert plain(manifest())["apps"][0]["image"]["id"] == "sha512-ab"
