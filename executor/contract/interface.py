"""What a stage1 image offers and what it is told: entrypoints, interface version, arguments. Pure.

Source: rkt `Documentation/devel/stage1-implementors-guide.md`, `stage0/{run,enter,gc,stop,app}.go`,
`stage0/manifest.go`.
"""

import json
import uuid
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

PREFIX: Final = "coreos.com/rkt/stage1/"
ENTRYPOINTS: Final = ("run", "enter", "stop", "gc", "attach", "app/add", "app/start", "app/stop", "app/rm")
NEWEST: Final = 6
FAILED: Final = 254
"""The exit code that is a stage1's own failure, not an app's."""
MUTABLE: Final = "coreos.com/rkt/stage1/mutable"
LOCAL_CONFIG: Final = "/etc/rkt"
ROOTFS: Final = "stage1/rootfs"

_UUIDS: Final = uuid.UUID("6f6e1d0c-6a3c-5c57-9d27-9cbb0f5f2e07")


class ContractError(Exception):
    """The image is no stage1 as the contract has it, or cannot do what a pod asks for; one line."""


@dataclass(frozen=True, slots=True)
class Stage1:
    """An image by its manifest. name: as the node's administrator calls it; entrypoints: absolute paths in its
    rootfs.
    """

    name: str
    entrypoints: Mapping[str, str]
    version: int
    manifest: Mapping[str, Any] = field(repr=False, hash=False)

    @property
    def mutable(self) -> bool:
        """Whether apps can come and go while the pod runs."""
        return all(f"app/{one}" in self.entrypoints for one in ("add", "start", "stop", "rm"))


@dataclass(frozen=True, slots=True)
class Run:
    """What `run` is told about a pod. The defaults are the contract's: nothing is passed for them."""

    net: str = "none"
    hostname: str = ""
    interactive: bool = False
    mutable: bool = False
    private_users: str = ""
    mds_token: str = ""
    local_config: str = LOCAL_CONFIG
    unrestricted_capabilities: bool = False
    unrestricted_paths: bool = False
    unrestricted_seccomp: bool = False
    resolv: str = "default"
    hosts: str = "default"
    ipc: str = ""
    debug: bool = False


def read(name: str, text: bytes | str) -> Stage1:
    """A stage1 by its image manifest. Raises ContractError."""
    try:
        manifest = json.loads(text)
        notes = {str(one["name"]): str(one["value"]) for one in manifest.get("annotations") or ()}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ContractError(f"stage1 {name}: its manifest is not an appc image manifest: {error}") from None
    entrypoints = {one: notes[PREFIX + one] for one in ENTRYPOINTS if PREFIX + one in notes}
    for one in ("run", "gc"):
        if one not in entrypoints:
            raise ContractError(f"stage1 {name}: no stage1 image, it has no annotation {PREFIX}{one}")
    for one, path in entrypoints.items():
        if not path.startswith("/") or ".." in path.split("/") or "\0" in path:
            raise ContractError(
                f"stage1 {name}: annotation {PREFIX}{one}: {path!r} is not a path in the image"
            )
    said = notes.get(PREFIX + "interface-version", "1")
    if not said.isdecimal() or not 1 <= int(said) <= NEWEST:
        raise ContractError(
            f"stage1 {name}: interface version {said!r} is not one of 1 to {NEWEST}, which are known here"
        )
    return Stage1(name, entrypoints, int(said), manifest)


def pod_uuid(name: str) -> str:
    """The UUID that a stage1 knows the pod by: the name of its directory, or made from it, always the same."""
    try:
        return str(uuid.UUID(name))
    except ValueError:
        return str(uuid.uuid5(_UUIDS, name))


def run_arguments(stage1: Stage1, run: Run, pod: str) -> tuple[list[str], list[str]]:
    """Arguments of `run`, and what of them this interface version does not know: warnings. ContractError for mutable
    pods, which are no option."""
    arguments = ["--debug"] if run.debug else []
    arguments.append(f"--net={run.net}")
    warnings: list[str] = []
    if run.interactive:
        arguments.append("--interactive")
    for name, value in (
        ("private-users", run.private_users),
        ("mds-token", run.mds_token),
        ("local-config", run.local_config),
    ):
        if value:
            arguments.append(f"--{name}={value}")
    dns = f"resolv={run.resolv},hosts={run.hosts}"
    later = (
        (2, f"--hostname={run.hostname}", run.hostname),
        (4, f"--dns-conf-mode={dns}", dns != "resolv=default,hosts=default"),
        (3, "--disable-capabilities-restriction", run.unrestricted_capabilities),
        (3, "--disable-paths", run.unrestricted_paths),
        (3, "--disable-seccomp", run.unrestricted_seccomp),
        (6, f"--ipc={run.ipc}", run.ipc),
    )
    if run.mutable:
        if not stage1.mutable:
            raise ContractError(f"stage1 {stage1.name}: does not run mutable pods")
        arguments.append("--mutable")
    for since, argument, wanted in later:
        if wanted and stage1.version >= since:
            arguments.append(argument)
        elif wanted:
            warnings.append(
                f"stage1 {stage1.name} does not know {argument.partition('=')[0]}: it has interface version "
                f"{stage1.version}, the argument came with {since}"
            )
    return [*arguments, pod_uuid(pod)], warnings


def gc_arguments(stage1: Stage1, pod: str, *, local_config: str = LOCAL_CONFIG) -> list[str]:
    """Arguments of `gc`."""
    configured = ["--local-config", local_config] if stage1.version >= 5 and local_config else []
    return [*configured, pod_uuid(pod)]


def stop_arguments(pod: str, *, force: bool) -> list[str]:
    """Arguments of `stop`."""
    return [*(["--force"] if force else []), pod_uuid(pod)]


def enter_arguments(pid: int, app: str, argv: list[str]) -> list[str]:
    """Arguments of `enter`."""
    return [f"--pid={pid}", f"--appname={app}", "--", *argv]


def attach_arguments(app: str, wanted: Collection[str] | None) -> list[str]:
    """Arguments of `attach`. wanted: of stdin, stdout, stderr, tty-in, tty-out; None: which there are, as JSON."""
    if wanted is None:
        return ["--action=list", f"--app={app}", "--debug=false"]
    endpoints = ("tty-in", "tty-out", "stdin", "stdout", "stderr")
    return [
        "--action=custom-attach",
        *(f"--{one}={str(one in wanted).lower()}" for one in endpoints),
        f"--app={app}",
        "--debug=false",
    ]


def app_arguments(what: str, pod: str, app: str) -> list[str]:
    """Arguments of `app/add`, `app/start`, `app/stop`, `app/rm`."""
    return ["--debug=false", *([f"--uuid={pod_uuid(pod)}"] if what == "add" else []), f"--app={app}"]
