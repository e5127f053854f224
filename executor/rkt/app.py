"""`app sandbox|add|start|stop|rm|list|status|exec`: pods whose apps come and go (rkt's CRI-ish verbs, an experiment).

All but `sandbox`, which runs the pod (`mutable`), ask the process that runs it; what only looks reads the pod's files.
"""

# ruff: noqa: T201  (a command line prints)

import asyncio
import os
import time
from typing import Any

from executor.rkt import control, prepare
from executor.rkt.apps import Apps, add_app_volumes, add_flags, experiment
from executor.rkt.common import Globals, check_format, need_root, table, to_json, words
from executor.rkt.end import take
from executor.rkt.flags import Failure, Flags
from executor.rkt.podflags import CONTAINED, PodFlags
from executor.rkt.podmanifest import Environments, build, make_entry, settle
from executor.rkt.pods import CREATED, MUTABLE, Seen, State, find
from executor.rkt.prepare import Making
from executor.rkt.show import app_json
from executor.rkt.stage1 import FOREIGN


def _need_experiment() -> None:
    if not experiment("app"):
        raise Failure("an experiment of rkt's: set RKT_EXPERIMENT_APP=true")


def sandbox(g: Globals, args: list[str]) -> int:
    """`app sandbox`: a pod without apps, which runs until it is stopped."""
    from executor.rkt.mutable import MutablePod
    from executor.rkt.run import execute, save_uuid

    _need_experiment()
    flags = g.flags("[flags]")
    flags.text("uuid-file-save", "", "write the pod's UUID to this file")
    for name in ("annotation", "user-annotation", "user-label"):
        flags.many(name, "NAME=VALUE, of the pod")
    asked = PodFlags.sandbox(flags)
    if words(flags, args):
        raise Failure("takes no images: they come with `app add`")
    asked.tell(g)
    choice = asked.stage1(g)
    flavor = choice.flavor
    asked.check_running(g, 0, flavor)
    ports = asked.sandbox_ports()
    if ports and asked.network != CONTAINED:
        raise Failure(f"--port flag does not work with '{asked.network}' networking")
    given = [_pairs(flags, name) for name in ("annotation", "user-annotation", "user-label")]
    making = prepare.new(g)
    save_uuid(making, flags.values["uuid-file-save"])
    ready = _fill(g, making, flavor, ports, *given)
    if flavor != FOREIGN:
        return asyncio.run(execute(g, asked, making, ready, MutablePod))
    from executor.rkt import foreign

    async def both() -> None:
        await ready
        await foreign.prepare(g, choice, making, mutable=True)

    return asyncio.run(foreign.execute(g, asked, making, both(), mutable=True))


def _pairs(flags: Flags, name: str) -> dict[str, str]:
    made = {}
    for text in flags.lists[name]:
        key, equals, value = text.partition("=")
        if not equals or not key:
            raise Failure(f"invalid argument {text!r} for --{name}: expected NAME=VALUE")
        made[key] = value
    return made


async def _fill(
    g: Globals,
    making: Making,
    flavor: str,
    ports: list[dict[str, Any]],
    notes: dict[str, str],
    user_notes: dict[str, str],
    labels: dict[str, str],
) -> None:
    manifest, _ = build(Apps(), [], Environments(), flavor)
    manifest["ports"] = ports
    notes = {**notes, MUTABLE: "true"}
    manifest["annotations"] = [{"name": key, "value": value} for key, value in notes.items()]
    manifest |= {
        key: value for key, value in (("userAnnotations", user_notes), ("userLabels", labels)) if value
    }
    everything = g.insecure >= {"capabilities", "paths", "seccomp"}
    settle(manifest, flavor=flavor, privileged="true" if everything else "")
    making.manifest = manifest
    making.pod.prepare([])
    (making.pod.path / CREATED).touch(0o644)


def add(g: Globals, args: list[str]) -> int:
    """`app add UUID IMAGE [flags]`: an image of the store. It is not started."""
    from executor.rkt.lookup import Finder

    _need_experiment()
    flags, apps = g.flags("UUID IMAGE [flags] [-- ARGS…]"), Apps()
    add_flags(flags, apps)
    add_app_volumes(flags, apps)
    flags.refuse("volume", "`app add` has --mnt-volume, of one app alone")
    flags.refuse("signature", "`app add` takes images that are in the store")
    uuids: list[str] = []
    flags.parse(args, lambda word: apps.word(word) if uuids else uuids.append(word), apps.argument)
    if not apps.apps:
        raise Failure("must provide the pod UUID and an IMAGEID")
    if len(apps.apps) > 1:
        raise Failure("must give only one app")
    pod, app = _running(g, uuids[0]), apps.last()

    async def made() -> dict[str, Any]:
        image, _ = await Finder(g, "never").find(app.image)
        source = prepare.source_of(g, image.id)
        rest, app.args = app.args, []
        entry = make_entry(app, source, Environments())
        if app.has_args:
            entry["app"]["exec"] = [*entry["app"]["exec"][:1], *rest]
        return entry

    control.ask(
        pod.path, "app-add", entry=asyncio.run(made()), volumes=app.app_volumes,
        mounts=app.mounts, insecure=sorted(g.insecure),
    )  # fmt: skip
    return 0


def start(g: Globals, args: list[str]) -> int:
    """`app start UUID --app=NAME`: one that was added, or has ended."""
    uuid, name = _named(g, args, "start")
    control.ask(_running(g, uuid).path, "app-start", app=name)
    return 0


def stop(g: Globals, args: list[str]) -> int:
    """`app stop UUID --app=NAME`. Returns when it has ended."""
    uuid, name = _named(g, args, "remove")  # rkt's word here, too
    pod = find(g.pods, uuid)
    if pod.ended:
        print(f'pod "{pod.uuid}" is already stopped')
        return 0
    control.ask(_running(g, uuid).path, "app-stop", app=name)
    return 0


def remove(g: Globals, args: list[str]) -> int:
    """`app rm UUID --app=NAME`: stops it, and removes all it has left."""
    uuid, name = _named(g, args, "remove")
    pod = find(g.pods, uuid)
    if pod.state is State.RUNNING:
        control.ask(_running(g, uuid).path, "app-rm", app=name)
        return 0
    from executor.rkt.mutable import forget, parted, put_manifest

    if not pod.mutable:
        raise Failure(f'pod "{pod.uuid}" is immutable: its apps stay')
    try:
        taken = take(pod)
    except FileNotFoundError:
        raise Failure(f'pod "{pod.uuid}" has just been removed') from None
    try:
        if name not in [entry["name"] for entry in pod.apps()]:
            raise Failure(f'error: nonexistent app "{name}"')
        manifest, volumes = parted(pod.manifest(), name)
        forget(pod.path, name, volumes)
        put_manifest(pod.path, manifest)
    finally:
        os.close(taken.lock)
    return 0


def _named(g: Globals, args: list[str], what: str) -> tuple[str, str]:
    """UUID and app."""
    _need_experiment()
    need_root()
    flags = g.flags("UUID --app=NAME")
    flags.text("app", "", "which app")
    found = words(flags, args)
    if not found:
        raise Failure("must provide the pod UUID")
    if not flags.values["app"]:
        raise Failure(f"must provide the app to {what}")
    return found[0], flags.values["app"]


def _running(g: Globals, uuid: str) -> Seen:
    """A mutable pod that runs. Failure."""
    need_root()
    pod = find(g.pods, uuid)
    if pod.state is not State.RUNNING:
        raise Failure(f'pod "{pod.uuid}" isn\'t currently running')
    if not pod.mutable:
        raise Failure(f'pod "{pod.uuid}" is immutable: its apps are those it was run with')
    if not pod.ready():
        raise Failure(f'supervisor for pod "{pod.uuid}" is not yet ready')
    return pod


def listing(g: Globals, args: list[str]) -> int:
    """`app list UUID`: names and states."""
    _need_experiment()
    flags = g.flags("UUID")
    flags.switch("no-legend", "no headings")
    flags.text("format", "", "json or json-pretty")
    found = words(flags, args)
    if len(found) != 1:
        raise Failure("name a pod by its UUID")
    pod = find(g.pods, found[0])
    apps = [app_json(pod, app, pod.manifest()) for app in pod.apps()]
    if how := check_format(flags.values["format"]):
        print(to_json(apps, pretty=how == "json-pretty"))
        return 0
    rows = [] if flags.is_on("no-legend") else [["NAME", "STATE"]]
    rows += [[app["name"], app["state"]] for app in apps]
    print(table(rows), end="" if rows else "\n")
    return 0


def status(g: Globals, args: list[str]) -> int:
    """`app status UUID --app=NAME`: lines `name=value`, or JSON."""
    _need_experiment()
    flags = g.flags("UUID --app=NAME")
    flags.text("app", "", "which app")
    flags.text("format", "", "json or json-pretty")
    found, name = words(flags, args), flags.values["app"]
    if len(found) != 1 or not name:
        raise Failure("name a pod by its UUID, and an app with --app")
    how = check_format(flags.values["format"])
    pod = find(g.pods, found[0])
    entry = next((one for one in pod.apps() if one["name"] == name), None)
    if entry is None:
        raise Failure(f'cannot find app "{name}" in the pod')
    app = app_json(pod, entry, pod.manifest())
    if how:
        print(to_json(app, pretty=how == "json-pretty"))
        return 0
    for key in ("name", "state", "image_id"):
        print(f"{key}={app[key]}")
    for key in ("created_at", "started_at", "finished_at"):
        if key in app:
            print(f"{key}={_go_time(app[key])}")
    if "exit_code" in app:
        print(f"exit_code={app['exit_code']}")
    _print_lists(app)
    return 0


def _print_lists(app: dict[str, Any]) -> None:
    if mounts := app.get("mounts"):
        shown = [
            f"{one['host_path']}:{one['container_path']}:(read_only:{str(one['read_only']).lower()})"
            for one in mounts
        ]
        print(f"mounts={','.join(shown)}")
    for key in ("user_annotations", "user_labels"):
        if app.get(key):
            print(f"{key}={','.join(f'{name}:{value}' for name, value in app[key].items())}")


def _go_time(nanoseconds: int) -> str:
    """As Go prints a time: `2006-01-02 15:04:05.999999999 -0700 MST`."""
    seconds, rest = divmod(nanoseconds, 10**9)
    fraction = f".{rest:09d}".rstrip("0").rstrip(".")
    local = time.localtime(seconds)
    return time.strftime("%Y-%m-%d %H:%M:%S", local) + fraction + time.strftime(" %z %Z", local)
