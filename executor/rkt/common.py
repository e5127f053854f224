"""What every verb needs: the global flags, where things are, and how rkt speaks."""

# ruff: noqa: T201  (a command line prints)

import os
import sys
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from executor.rkt.flags import Failure, Flags

DEFAULT_DIR: Final = "/var/lib/gantry"
INSECURE: Final = {
    "none": "",
    "image": "image",
    "tls": "tls",
    "ondisk": "",
    "http": "http",
    "pubkey": "pubkey",
    "capabilities": "capabilities",
    "paths": "paths",
    "seccomp": "seccomp",
    "all-fetch": "image tls http pubkey",
    "all-run": "capabilities paths seccomp",
    "all": "image tls http pubkey capabilities paths seccomp",
}


@dataclass
class Globals:
    """The flags that every verb takes."""

    verb: str = ""
    dir: str = ""
    local_config: str = "/etc/rkt"
    system_config: str = "/usr/lib/rkt"
    user_config: str = ""
    image_config: str = ""
    debug: bool = False
    trust_keys_from_https: bool = False
    insecure: set[str] = field(default_factory=set)

    def add_to(self, flags: Flags) -> None:
        """Let a verb's command line have them, too."""

        def set_text(name: str, *, directory: bool) -> Any:
            def take(value: str) -> None:
                setattr(self, name, os.path.abspath(value) if directory and value else value)

            return take

        def set_switch(name: str) -> Any:
            def take(value: str) -> None:
                setattr(self, name, value not in {"false", "0", "f", "F", "False", "FALSE"})

            return take

        flags.call("debug", "say more", set_switch("debug"), bare="true")
        flags.call(
            "dir",
            f"where images and pods are (default {DEFAULT_DIR}, or rktKind paths)",
            set_text("dir", directory=True),
        )
        for name, text in (
            ("local-config", "the administrator's configuration (default /etc/rkt)"),
            ("system-config", "the vendor's configuration (default /usr/lib/rkt)"),
            ("user-config", "a user's configuration"),
        ):
            flags.call(name, text, set_text(name.replace("-", "_"), directory=True))
        flags.call(
            "image-config",
            "settings for images, as the executor reads them (TOML)",
            set_text("image_config", directory=True),
        )
        flags.call("insecure-options", f"what not to insist on: {','.join(INSECURE)}", self._take_insecure)
        flags.call(
            "trust-keys-from-https",
            "trust keys that come over HTTPS without asking",
            set_switch("trust_keys_from_https"),
            bare="true",
        )
        flags.refuse("cpuprofile memprofile", "rkt's own profiles are of its Go program")

    def _take_insecure(self, value: str) -> None:
        for option in value.split(","):
            if option not in INSECURE:
                raise ValueError(f"{option!r} is not one of {', '.join(INSECURE)}")
            self.insecure |= set(INSECURE[option].split())

    def flags(self, usage: str = "") -> Flags:
        """The flags of the current verb, these included."""
        made = Flags(self.verb, usage)
        self.add_to(made)
        return made

    @property
    def config_dirs(self) -> list[Path]:
        """From the weakest to the strongest."""
        return [Path(text) for text in (self.system_config, self.local_config, self.user_config) if text]

    @property
    def data(self) -> Path:
        """The data directory: --dir, the configuration's, or the default."""
        if not self.dir:
            from executor.rkt import config

            self.dir = config.load(self.config_dirs).data_dir or DEFAULT_DIR
        return Path(os.path.realpath(self.dir))

    @property
    def pods(self) -> Path:
        return self.data / "pods"

    def diagnose(self, text: str) -> None:
        """With --debug: what is being done with images, in rkt's words, which scripts look for."""
        if self.debug:
            print(f"image: {text}", file=sys.stderr, flush=True)

    def say(self, text: str) -> None:
        """On stderr, as rkt does: with the verb in front."""
        print(f"{self.verb.rpartition(' ')[2]}: {text}", file=sys.stderr, flush=True)


def words(flags: Flags, args: list[str], *, rest: bool = False) -> list[str]:
    """Parse a command line whose words have no order with its flags."""
    found: list[str] = []
    flags.parse(args, found.append, rest=rest)
    return found


def need_root() -> None:
    if os.geteuid() != 0:
        raise Failure("cannot run as unprivileged user")


def table(rows: Iterable[Sequence[str]]) -> str:
    """As Go's tabwriter with tabs of 8 and a padding of 1: cells end with tabs, columns are aligned."""
    lines = [list(row) for row in rows]
    count = max(map(len, lines), default=0)
    widths = [max(len(row[i]) for row in lines if len(row) > i) // 8 * 8 + 8 for i in range(count)]
    made = []
    for row in lines:
        cells = [cell + "\t" * ((widths[i] - len(cell) + 7) // 8) for i, cell in enumerate(row[:-1])]
        made.append("".join(cells) + row[-1] + "\n")
    return "".join(made)


def full_time(seconds: float) -> str:
    """Go's layout `2006-01-02 15:04:05.999 -0700 MST`."""
    local = time.localtime(seconds)
    fraction = f".{int(seconds % 1 * 1000):03d}".rstrip("0").rstrip(".")
    return time.strftime("%Y-%m-%d %H:%M:%S", local) + fraction + time.strftime(" %z %Z", local)


def ago(seconds: float, now: float) -> str:
    """As go-humanize: `3 minutes ago`."""
    past = int(now - seconds)
    if past < 1:
        return "now"
    steps = (("second", 1, 60), ("minute", 60, 3600), ("hour", 3600, 86400), ("day", 86400, 604800),
             ("week", 604800, 2592000), ("month", 2592000, 31104000), ("year", 31104000, 1 << 62))  # fmt: skip
    for name, unit, below in steps:
        if past < below:
            count = past // unit
            return f"{count} {name}{'' if count == 1 else 's'} ago"
    return "a long while ago"


def to_json(value: object, *, pretty: bool) -> str:
    """As Go's encoder: no blanks, or tabs."""
    import json

    if pretty:
        return json.dumps(value, indent="\t", ensure_ascii=False)
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False)


def check_format(value: str) -> str:
    """`--format`. Failure."""
    if value not in {"", "json", "json-pretty"}:
        raise Failure(f"invalid format option: {value}")
    return value
