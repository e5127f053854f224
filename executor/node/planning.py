"""What would be done for a pod on this machine, from its file. Images are looked up in the store, never fetched."""

import json
import os
from collections.abc import Mapping
from fractions import Fraction
from pathlib import Path
from typing import Any, Final

from executor.config import MAX_PIDS
from executor.kvm.machine import KVM, check_pod
from executor.node import documents, machines
from executor.pods import manifest as pods
from executor.pods import users
from executor.pods.enforcing import NO_FACTS, facts, without_unenforceable
from executor.pods.env import ConfigError, Node
from executor.pods.objects import Objects
from executor.pods.rules import Rules
from executor.stage0.config import ImageConfig
from executor.stage0.errors import ImageError
from executor.stage0.store import ImageStore
from executor.stage1 import cgroups, describe, manifest, userns
from executor.stage1.ops import StageError

_LACKING: Final = "not enforced here; the pod is refused, unless the executor has --unenforceable report:"
_NOT_HERE: Final = "(layers of {}, which is not on this node: fetch it with `gantry image fetch`)"


class PlanError(Exception):
    """There is no plan for this pod: what is wrong with it, in one line."""


async def plan_file(file: Path, state_dir: Path, local_images: Path | None, flavor: str) -> dict[str, Any]:
    """The plan of the v1 Pod or the appc PodManifest in `file` (see describe.pod_plan). Raises PlanError, OSError."""
    lowers: dict[str, tuple[str, ...]] = {}
    try:
        raw, objects = documents.read(file)
        if raw.get("acKind") == "PodManifest":
            made, name = raw, file.stem
        else:
            pod = documents.as_admitted(raw)
            images = ImageStore(state_dir, local_images=local_images)
            made, lowers = await _of_pod(pod, images, state_dir, flavor, objects)
            name = str(pod["metadata"]["uid"])
        return plan(made, f"{state_dir}/pods/run/{name}", lowers, state_dir)
    except (ConfigError, StageError, cgroups.CgroupError, ValueError) as error:
        raise PlanError(f"{file}: {error}") from None
    except (KeyError, TypeError, AttributeError) as error:
        raise PlanError(f"{file}: not a v1 Pod: {type(error).__name__}: {error}") from None


def plan(
    made: Mapping[str, Any], directory: str, lowers: Mapping[str, tuple[str, ...]], state_dir: Path
) -> dict[str, Any]:
    """The plan of a PodManifest; lowers: the layers of each app, uppermost first, as far as they are known.

    Raises StageError, cgroups.CgroupError, ValueError.
    """
    kind = _flavor(made)
    _, lacking = without_unenforceable(made, kind, facts(state_dir))
    raw, _ = without_unenforceable(made, kind, NO_FACTS)  # what no plan can have, on whatever machine
    lowers = {app["name"]: lowers.get(app["name"]) or (f"(layers of {app['name']})",) for app in raw["apps"]}
    layout = cgroups.detect(Path("/proc/self/cgroup").read_text(), Path("/proc/self/mountinfo").read_text())
    if kind == KVM:
        planned = machines.plan(raw, directory, lowers, state_dir, layout)
    else:
        pod = manifest.read(json.dumps(raw))
        planned = describe.pod_plan(pod, directory, lowers, layout, why_no_users=userns.why_not())
    return {**planned, "notEnforced": list(lacking)}


def text(made: Mapping[str, Any]) -> str:
    """For people."""
    lines = [f"  {line}\n" for line in made["notEnforced"]]
    planned = machines.text(made) if "machine" in made else describe.text(made)
    return planned + "".join([f"{_LACKING}\n", *lines] if lines else [])


def _flavor(made: Mapping[str, Any]) -> str:
    notes = {one["name"]: one["value"] for one in made.get("annotations") or ()}
    return str(notes.get("gantry.io/flavor", "linux"))


async def _of_pod(
    pod: Mapping[str, Any], images: ImageStore, state_dir: Path, default_flavor: str, objects: Objects
) -> tuple[dict[str, Any], dict[str, tuple[str, ...]]]:
    flavor = pods.choose_flavor(pod, "", default_flavor, machines.ALL_FLAVORS)
    if flavor == KVM:
        check_pod(pod)
    node = Node("this-node", "127.0.0.1", Fraction(os.cpu_count() or 1), _memory())
    level = pods.pod_level(
        pod, node, flavor, f"{state_dir}/pods/run/termination", rules=Rules(max_pids=MAX_PIDS)
    )
    entries, lowers = [], {}
    for container in (*(pod["spec"].get("initContainers") or ()), *pod["spec"]["containers"]):
        try:
            image = await images.pull(container["image"], "Never")
            image_id, config, layers = image.id, image.config, image.layers
        except ImageError:
            image_id, config, layers = "", ImageConfig(entrypoint=("(the image's command)",)), ()
        identity = users.resolve(container, pod, config.user, config.supplementary_gids, layers)
        entries.append(pods.app_entry(level, container, image_id, config, identity, objects))
        lowers[container["name"]] = tuple(map(str, layers)) or (_NOT_HERE.format(container["image"]),)
    return pods.pod_manifest(level, entries), lowers


def _memory() -> int:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
