"""The apps of a command line: images, and the flags that mean the image before them."""

import os
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final

from executor.rkt.flags import FALSE, TRUE, Failure, Flags, boolean
from executor.stage1 import caps
from executor.stage1.manifest import ManifestError, quantity

_SMALLEST_MEMORY = 4096
MODES: Final = {
    "stdin": ("null", "stream", "tty"),
    "stdout": ("log", "null", "stream", "tty"),
    "stderr": ("log", "null", "stream", "tty"),
}
"""Of an app's streams; the first is what it has when nobody says."""


def experiment(name: str) -> bool:
    """Whether one of rkt's experiments is on: RKT_EXPERIMENT_NAME=true."""
    try:
        return boolean(os.environ.get(f"RKT_EXPERIMENT_{name.upper()}", "false"))
    except ValueError:
        return False


@dataclass
class App:
    """One image and what its flags said; None and "" is: as the image says."""

    image: str
    args: list[str] = field(default_factory=list)
    has_args: bool = False
    texts: dict[str, str] = field(default_factory=dict)
    """exec, name, user, group, working-dir, signature."""
    supplementary_gids: list[int] | None = None
    readonly_rootfs: bool = False
    mounts: list[tuple[str, str]] = field(default_factory=list)
    environment: dict[str, str] = field(default_factory=dict)
    annotations: dict[str, str] = field(default_factory=dict)
    user_annotations: dict[str, str] = field(default_factory=dict)
    user_labels: dict[str, str] = field(default_factory=dict)
    isolators: dict[str, Any] = field(default_factory=dict)
    streams: dict[str, str] = field(default_factory=dict)
    """stdin, stdout, stderr."""
    app_volumes: list[tuple[dict[str, Any], str]] = field(default_factory=list)
    """Volumes of its own, and where they go (`app add --mnt-volume`)."""


@dataclass
class Apps:
    """All of them, and what stands before the first: mounts for all apps; the pod's volumes."""

    apps: list[App] = field(default_factory=list)
    mounts: list[tuple[str, str]] = field(default_factory=list)
    volumes: dict[str, dict[str, Any]] = field(default_factory=dict)

    def word(self, image: str) -> None:
        self.apps.append(App(image))

    def argument(self, text: str) -> None:
        """What stands behind `--`; first "" for the `--` itself. Failure."""
        if not self.apps:
            raise Failure("error parsing app image arguments: an image is required before any app arguments")
        app = self.apps[-1]
        if text:
            app.args.append(text)
        elif app.has_args:
            raise Failure(
                "error parsing app image arguments: only one set of app arguments allowed per image"
            )
        app.has_args = True

    def last(self) -> App:
        """ValueError when no image has been named yet."""
        if not self.apps:
            raise ValueError("it must follow an image")
        return self.apps[-1]


def deprecate(flags: Flags) -> None:
    """The old words for --pull-policy."""
    flags.deprecate("store-only", "please use --pull-policy=never")
    flags.deprecate("no-store", "please use --pull-policy=update")


def add_flags(flags: Flags, apps: Apps) -> None:
    """Everything that may stand behind an image, and --volume and --mount."""

    def text(name: str) -> Callable[[str], None]:
        def take(value: str) -> None:
            if name in {"exec", "signature"} and name in apps.last().texts:
                raise ValueError(f"--{name} specified multiple times for the same image")
            apps.last().texts[name] = value

        return take

    for name, words in (
        ("exec", "what to run instead of the image's program"),
        ("name", "of the app (default: the image's last part)"),
        ("user", "number, name or path of a file whose owner is meant"),
        ("group", "likewise"),
        ("working-dir", "where to run it"),
        ("signature", "the image's detached signature"),
    ):
        flags.call(name, words, text(name))

    def pair(attribute: str) -> Callable[[str], None]:
        def take(value: str) -> None:
            key, equals, word = value.partition("=")
            if not equals or not key:
                raise ValueError("expected NAME=VALUE")
            getattr(apps.last(), attribute)[key] = word

        return take

    for name, attribute in (
        ("environment", "environment"),
        ("annotation", "annotations"),
        ("user-annotation", "user_annotations"),
        ("user-label", "user_labels"),
    ):
        flags.call(name, "NAME=VALUE", pair(attribute))

    def groups(value: str) -> None:
        apps.last().supplementary_gids = [int(part) for part in value.split(",")]

    def read_only(value: str) -> None:
        apps.last().readonly_rootfs = boolean(value)

    flags.call("supplementary-gids", "numbers, with commas", groups)
    flags.call("readonly-rootfs", "make the app's root read-only", read_only, bare="true", words=TRUE | FALSE)
    _add_places(flags, apps)
    _add_isolators(flags, apps)
    _add_streams(flags, apps)


def _add_places(flags: Flags, apps: Apps) -> None:
    def mount(value: str) -> None:
        fields = _fields(value)
        if set(fields) != {"volume", "target"}:
            raise ValueError("expected volume=NAME,target=PATH")
        (apps.apps[-1].mounts if apps.apps else apps.mounts).append((fields["volume"], fields["target"]))

    def volume(value: str) -> None:
        made = parse_volume(value)
        if made["name"] in apps.volumes:
            raise ValueError(f"duplicate volume name {made['name']!r}")
        apps.volumes[made["name"]] = made

    flags.call("mount", "volume=NAME,target=PATH; before the first image: in all apps", mount)
    flags.call("volume", "NAME,kind=host|empty,source=,readOnly=,recursive=,mode=,uid=,gid=", volume)


def add_app_volumes(flags: Flags, apps: Apps) -> None:
    """`--mnt-volume` of `app add`: volume and mount in one."""

    def take(value: str) -> None:
        targets = [part for part in value.split(",") if part.startswith("target=")]
        if len(targets) != 1:
            raise ValueError("one target=PATH is needed")
        rest = ",".join(part for part in value.split(",") if part != targets[0])
        if not rest.startswith("name="):
            raise ValueError("it begins with name=NAME")
        volume = parse_volume(rest.removeprefix("name="))
        # From the app's root, wherever it seems to lead.
        target = os.path.normpath("/" + targets[0].removeprefix("target=").lstrip("/"))
        apps.last().app_volumes.append((volume, target))

    flags.call("mnt-volume", "name=NAME,kind=host|empty,…,target=PATH: a volume of this app's alone", take)


def _add_streams(flags: Flags, apps: Apps) -> None:
    if not experiment("attach"):
        why = "an experiment of rkt's, set RKT_EXPERIMENT_ATTACH=true; --interactive gives an app a terminal without"
        flags.refuse("stdin stdout stderr", why)
        return

    def mode(name: str) -> Callable[[str], None]:
        def take(value: str) -> None:
            if value not in MODES[name]:
                raise ValueError(f"invalid {name} mode: not one of {', '.join(MODES[name])}")
            apps.last().streams[name] = value

        return take

    for name, modes in MODES.items():
        flags.call(name, f"of the app: {', '.join(modes)}", mode(name))


def _fields(text: str) -> dict[str, str]:
    fields: dict[str, str] = {}
    for part in text.split(","):
        key, equals, value = part.partition("=")
        if not equals or key in fields:
            raise ValueError(f"{part!r} is not NAME=VALUE" if not equals else f"{key} is there twice")
        fields[key] = value
    return fields


def parse_volume(text: str) -> dict[str, Any]:
    """`NAME,kind=…` as an appc volume. ValueError."""
    name, comma, rest = text.partition(",")
    fields = _fields(rest) if comma else {}
    made: dict[str, Any] = {"name": name, "kind": fields.pop("kind", "")}
    if made["kind"] not in {"host", "empty"}:
        raise ValueError(f"kind {made['kind']!r} is neither host nor empty")
    known = {"host": {"source", "readOnly", "recursive"}, "empty": {"readOnly", "mode", "uid", "gid"}}
    for key, value in fields.items():
        if key not in known[made["kind"]]:
            raise ValueError(f"a volume of kind {made['kind']} has no {key!r}")
        if key in {"readOnly", "recursive"}:
            made[key] = boolean(value)
        else:
            made[key] = int(value) if key in {"uid", "gid"} else value
    if made["kind"] == "host" and not made.get("source", "").startswith("/"):
        raise ValueError(f"source {made.get('source', '')!r} is not an absolute path")
    return made


def _add_isolators(flags: Flags, apps: Apps) -> None:
    def isolator(name: str, make: Callable[[str], Any]) -> Callable[[str], None]:
        def take(value: str) -> None:
            apps.last().isolators[name] = make(value)

        return take

    for flag, name, make, words in (
        ("memory", "resource/memory", _memory, "limit: 16M, 1Gi"),
        ("cpu", "resource/cpu", _cpu, "limit: 500m, 2"),
        ("cpu-shares", "os/linux/cpu-shares", int, "weight, 2 to 262144"),
        ("oom-score-adj", "os/linux/oom-score-adj", _oom, "-1000 to 1000"),
        ("caps-retain", "os/linux/capabilities-retain-set", _capabilities, "only these capabilities"),
        ("caps-remove", "os/linux/capabilities-remove-set", _capabilities, "not these of the usual ones"),
    ):
        flags.call(flag, words, isolator(name, make))
    for old in ("retain", "remove"):
        flags.call(f"cap-{old}", "", isolator(f"os/linux/capabilities-{old}-set", _capabilities))
        flags.deprecate(f"cap-{old}", f"use --caps-{old} instead")

    def seccomp(value: str) -> None:
        name, made = parse_seccomp(value)
        apps.last().isolators[name] = made

    flags.call("seccomp", "mode=retain|remove[,errno=EPERM],NAME,…", seccomp)


def _quantity(text: str, scale: int = 0) -> int:
    try:
        return quantity(text, scale=scale)
    except ManifestError as error:
        raise ValueError(str(error)) from None


def _memory(text: str) -> dict[str, str]:
    size = _quantity(text)
    if size < _SMALLEST_MEMORY:
        raise ValueError(
            f"memory limit of {size} bytes too low. Try a reasonable value, such as --memory=16M"
        )
    return {"request": text, "limit": text}


def _cpu(text: str) -> dict[str, str]:
    _quantity(text, 3)
    return {"request": text, "limit": text}


def _oom(text: str) -> int:
    if not -1000 <= int(text) <= 1000:
        raise ValueError("it is not from -1000 to 1000")
    return int(text)


def _capabilities(text: str) -> dict[str, list[str]]:
    names = text.split(",")
    for name in names:
        if name not in caps.NUMBERS:
            raise ValueError(f"Linux has no capability {name!r}")
    return {"set": names}


def parse_seccomp(text: str) -> tuple[str, dict[str, Any]]:
    """`mode=retain,errno=EPERM,chmod,…` as an isolator: (name, value). ValueError."""
    mode, made, names = "", {}, []
    for part in text.split(","):
        key, equals, value = part.partition("=")
        if key == "mode" and equals:
            mode = value
        elif key == "errno" and equals:
            made["errno"] = value
        elif equals or not key:
            raise ValueError(f"{part!r} is neither mode=, errno= nor a system call")
        else:
            names.append(key)
    if mode not in {"retain", "remove"}:
        raise ValueError("invalid seccomp mode: mode=retain or mode=remove is needed")
    return f"os/linux/seccomp-{mode}-set", {"set": names, **made}
