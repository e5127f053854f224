"""`list`, `status`, `cat-manifest`: what pods there are and how they are."""

# ruff: noqa: T201  (a command line prints)

import fcntl
import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from executor.network.info import info, shown
from executor.pods.poddir import Phase
from executor.rkt.common import Globals, ago, check_format, full_time, table, to_json, words
from executor.rkt.flags import Failure, boolean, duration
from executor.rkt.pods import STATUS, Seen, State, find, named, walk

_LISTED = (Phase.PREPARE, Phase.PREPARED, Phase.RUN, Phase.EXITED)
_POLL = 0.05  # seconds, only before a pod runs: from then on its lock tells
_SHOWS_PID = frozenset(
    {State.RUNNING, State.DELETING, State.EXITED_DELETING, State.EXITED, State.EXITED_GARBAGE}
)


def listing(g: Globals, args: list[str]) -> int:
    """`list`: every pod but embryos and garbage, a line an app."""
    flags = g.flags("[flags]")
    flags.switch("full", "whole UUIDs, image ids and times")
    flags.switch("no-legend", "no headings")
    flags.text("format", "", "json or json-pretty")
    words(flags, args)
    if how := check_format(flags.values["format"]):
        print(to_json([as_json(pod) for pod in walk(g.pods, _LISTED)], pretty=how == "json-pretty"))
        return 0
    full, now = flags.is_on("full"), time.time()
    heads = [
        "UUID",
        "APP",
        "IMAGE NAME",
        *(["IMAGE ID"] if full else []),
        "STATE",
        "CREATED",
        "STARTED",
        "NETWORKS",
    ]
    rows = [] if flags.is_on("no-legend") else [heads]
    for pod in walk(g.pods, _LISTED):
        rows += _lines(pod, now, full=full)
    print(table(rows), end="")
    return 0


def _lines(pod: Seen, now: float, *, full: bool) -> list[list[str]]:
    def when(seconds: float | None) -> str:
        return "" if seconds is None else full_time(seconds) if full else ago(seconds, now)

    uuid, rest = (
        pod.uuid if full else pod.uuid[:8],
        [pod.state, when(pod.created), when(pod.started), shown(pod.path)],
    )
    lines = []
    for app in pod.apps():
        name = pod.image_name(app["name"]) or "--"
        image = [app["image"]["id"][:19]] if full else []
        lines.append([uuid, app["name"], name, *image, *map(str, rest)])
        uuid, rest = "", [""] * 4  # the pod's columns are shown once
    return lines or [[uuid, "-", "-", *(["-"] if full else []), *map(str, rest)]]


def as_json(pod: Seen) -> dict[str, Any]:
    """rkt's api/v1 Pod: the pod's times in seconds, the apps' in nanoseconds."""
    manifest = pod.manifest()
    made: dict[str, Any] = {"name": pod.uuid, "state": str(pod.state)}
    if networks := info(pod.path):
        made["networks"] = networks
    if manifest.get("apps"):
        made["app_names"] = [app["name"] for app in manifest["apps"]]
        made["apps"] = [app_json(pod, app, manifest) for app in manifest["apps"]]
    for key, seconds in (("created_at", pod.created), ("started_at", pod.started)):
        if seconds is not None:
            made[key] = int(seconds)
    return made | _user_fields(manifest)


def app_json(pod: Seen, app: dict[str, Any], manifest: dict[str, Any]) -> dict[str, Any]:
    """rkt's api/v1 App. Apps of mutable pods have times of their own."""
    name = app["name"]
    created = pod.time_of(f"{STATUS}/{name}-created") or pod.created
    started, ended = pod.app_times(name)
    code = pod.exit_code(name)
    begun = started is not None or (pod.state is State.RUNNING and not pod.mutable)
    over = code is not None or pod.ended or pod.state in {State.DELETING, State.GARBAGE}
    state = "exited" if over else "running" if begun else "created"
    if pod.state in {State.EMBRYO, State.PREPARING, State.ABORTED}:
        state = "unknown"
    made: dict[str, Any] = {"name": name, "state": state}
    times = {"created_at": created, "started_at": started, "finished_at": ended}
    made |= {key: int(seconds * 10**9) for key, seconds in times.items() if seconds is not None}
    if code is not None:
        made["exit_code"] = code
    made["image_id"] = app["image"]["id"]
    volumes = {volume["name"]: volume for volume in manifest.get("volumes") or ()}
    mounts = [_mount_json(pod, mount, volumes.get(mount["volume"], {})) for mount in app.get("mounts") or ()]
    return made | ({"mounts": mounts} if mounts else {}) | _user_fields(app.get("app") or {})


def _mount_json(pod: Seen, mount: dict[str, Any], volume: dict[str, Any]) -> dict[str, Any]:
    source = volume.get("source") or str(pod.path / "sharedVolumes" / mount["volume"])
    return {
        "name": mount["volume"],
        "container_path": mount["path"],
        "host_path": source,
        "read_only": bool(volume.get("readOnly") or mount.get("readOnly")),
    }


def _user_fields(part: dict[str, Any]) -> dict[str, Any]:
    keys = {"user_annotations": "userAnnotations", "user_labels": "userLabels"}
    return {ours: dict(part[theirs]) for ours, theirs in keys.items() if part.get(theirs)}


def status(g: Globals, args: list[str]) -> int:
    """`status UUID`: lines `name=value`, or JSON; with --wait when it has ended."""
    flags = g.flags("[flags] UUID")
    flags.text("wait", "false", "until it has ended: true, false or how long", bare="true")
    flags.text("wait-ready", "false", "until it is ready: true, false or how long", bare="true")
    flags.text("uuid-file", "", "read the UUID from a file")
    flags.text("format", "", "json or json-pretty")
    rest = words(flags, args)
    try:
        found = named(rest, flags.values["uuid-file"])
    except Failure as error:
        raise Failure(str(error), None if rest or not flags.values["uuid-file"] else 1) from None  # as in rkt
    how = check_format(flags.values["format"])
    ready, wait = (_seconds(name, flags.values[name]) for name in ("wait-ready", "wait"))
    pod = find(g.pods, found[0])
    if ready:
        with _at_most(ready, "error waiting for pod readiness"):
            pod = _wait_ready(pod)
    if wait:
        with _at_most(wait, "error waiting for pod to finish"):
            pod = wait_finished(pod)
    if how:
        print(to_json(as_json(pod), pretty=how == "json-pretty"))
        return 0
    print(f"state={pod.state}")
    for name, seconds in (("created", pod.created), ("started", pod.started)):
        if seconds is not None:
            print(f"{name}={full_time(seconds)}")
    if pod.state in {State.RUNNING, State.EXITED}:
        print(f"networks={shown(pod.path)}")
    if pod.state in _SHOWS_PID:
        _print_exits(pod)
    return 0


def _print_exits(pod: Seen) -> None:
    if (pid := pod.pid()) is not None:
        print(f"pid={pid}")
    print(f"exited={str(pod.state in {State.EXITED, State.EXITED_GARBAGE}).lower()}")
    if pod.state is State.RUNNING:
        return
    for app in pod.apps():
        if (code := pod.exit_code(app["name"])) is not None:
            print(f"app-{app['name']}={code}")


def _seconds(name: str, text: str) -> float:
    """How long to wait: 0 not at all, below 0 for ever. Failure."""
    if not text:
        return -1.0
    try:
        return -1.0 if boolean(text) else 0.0
    except ValueError:
        pass
    try:
        return duration(text)
    except ValueError as error:
        raise Failure(f"--{name}: {error}") from None


@contextmanager
def _at_most(seconds: float, what: str) -> Iterator[None]:
    """Failure when the body takes longer; no limit below 0."""

    def over(*_: object) -> None:
        raise Failure(f"{what}: context deadline exceeded")

    before = signal.signal(signal.SIGALRM, over)
    signal.setitimer(signal.ITIMER_REAL, max(seconds, 0.0))
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def _again(pod: Seen) -> Seen:
    return find(pod.root, pod.uuid)


def _wait_ready(pod: Seen) -> Seen:
    while not pod.ready():
        if pod.ended or pod.state in {State.GARBAGE, State.DELETING, State.ABORTED}:
            raise Failure(f"error waiting for pod readiness: the pod is {pod.state}")
        time.sleep(_POLL)
        pod = _again(pod)
    return pod


def wait_finished(pod: Seen) -> Seen:
    """Return when it does not run any more, or never will. While it runs its lock is waited for."""
    while pod.phase in {Phase.EMBRYO, Phase.PREPARE, Phase.PREPARED} and pod.state is not State.ABORTED:
        time.sleep(_POLL)
        pod = _again(pod)
    if pod.state is State.RUNNING:
        wait_unlocked(pod.path)
        pod = _again(pod)
    return pod


def wait_unlocked(path: Path) -> None:
    """Return when nobody holds the pod's lock, or it is gone."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError:
        return
    try:
        fcntl.flock(fd, fcntl.LOCK_SH)
    finally:
        os.close(fd)


def cat_manifest(g: Globals, args: list[str]) -> int:
    """`cat-manifest UUID`: the PodManifest."""
    flags = g.flags("[flags] UUID")
    flags.switch("pretty-print", "indent the output", default=True)
    flags.text("uuid-file", "", "read the UUID from a file")
    found, file = words(flags, args), flags.values["uuid-file"]
    if file:
        found = []  # here, alone of rkt's verbs, the file goes before words
    pod = find(g.pods, named(found, file)[0])
    manifest = pod.manifest()
    if not manifest:
        raise Failure(f"cannot read the pod manifest: pod {pod.uuid} is {pod.state} and has none")
    print(to_json(manifest, pretty=flags.is_on("pretty-print")))
    return 0
