"""The flags of `run`, `prepare`, `run-prepared` and `app sandbox` that mean the pod as a whole."""

import os
from dataclasses import dataclass, field
from ipaddress import ip_address
from pathlib import Path
from typing import Any, Final

from executor.network import selection
from executor.rkt import measured, stage1
from executor.rkt.apps import Apps, add_flags, deprecate
from executor.rkt.common import Globals
from executor.rkt.flags import Failure, Flags
from executor.rkt.podmanifest import AC_NAME, Environments, resolv_conf

_FIRST: Final = 3
_MOST: Final = 32
CONTAINED: Final = "contained"
FLY: Final = "fly"


@dataclass
class PodFlags:
    """What was asked for. `environments` and `flavor` after `settle`."""

    flags: Flags
    apps: Apps = field(default_factory=Apps)
    nets: dict[str, str] = field(default_factory=lambda: {selection.DEFAULT: ""})
    """Networks and their arguments, or one of the words for them."""
    _nets: list[str] = field(default_factory=list)

    @classmethod
    def add(cls, flags: Flags, *, makes: bool, runs: bool) -> "PodFlags":
        """makes: pods out of images; runs: them."""
        self = cls(flags)
        if makes:
            self._add_making()
        if runs:
            self._add_running()
        return self

    @classmethod
    def sandbox(cls, flags: Flags) -> "PodFlags":
        """Of a pod without apps yet."""
        self = cls(flags)
        self._add_stage1()
        self._add_network(None)
        measured.add_flags(flags)
        flags.many(
            "port",
            "NAME:PROTOCOL:PORT:ADDRESS:PORT, of the pod, of this machine: what comes there goes to the pod",
        )
        flags.values |= {"interactive": "false", "mds-register": "false", "ipc": "auto"}
        return self

    def _add_making(self) -> None:
        flags = self.flags
        add_flags(flags, self.apps)
        flags.text("pull-policy", "new", "when to fetch an image: new, update or never")
        flags.switch("store-only", "")
        flags.switch("no-store", "")
        deprecate(flags)
        flags.switch("inherit-env", "take this process' environment along, behind the images'")
        flags.many("set-env", "NAME=VALUE for all apps")
        flags.many("set-env-file", "a file of lines NAME=VALUE for all apps")
        flags.text("pod-manifest", "", "run this PodManifest; its images are in the store")
        flags.switch(
            "private-users",
            "insist on ids of the pod's own (which it has anyway, where that is possible); =false: not even then",
        )
        flags.many(
            "port", "NAME:[ADDRESS:]PORT: what comes to this port of this machine goes to an app's port NAME"
        )
        self._add_stage1()

    def _add_stage1(self) -> None:
        flags = self.flags
        flags.switch("no-overlay", "accepted; images are always mounted, never copied")
        for name, text in stage1.FLAGS.items():
            flags.text(name, "", text)

    def _add_network(self, bare: str | None) -> None:
        """bare: what --net alone means; None: the next word is its value."""
        flags = self.flags
        flags.values["net"] = selection.DEFAULT
        flags.call(
            "net",
            "none, host, all, or networks: NAME[:ARG=VALUE;…],… (default default)",
            self._take_net,
            bare=bare,
        )
        flags.many("dns", "name servers; host: as this machine's; none: what the image says")
        flags.text("dns-domain", "", "for resolv.conf")
        flags.many("dns-search", "for resolv.conf")
        flags.many("dns-opt", "for resolv.conf")
        flags.many("hosts-entry", "ADDRESS=NAME for /etc/hosts; host: as this machine's")
        flags.text("hostname", "", "of the pod (default rkt-UUID)")

    def _take_net(self, text: str) -> None:
        self._nets.append(text)
        self.nets = selection.read(self._nets)
        self.flags.values["net"] = ",".join(self._nets)

    def _add_running(self) -> None:
        flags = self.flags
        self._add_network("default")
        measured.add_flags(flags)
        flags.switch("interactive", "give the app this terminal, or this standard input")
        flags.text("ipc", "auto", "auto or private: of the pod's own; parent: this machine's")
        flags.switch("mds-register", "tell the metadata service of the pod")

    # -- what it comes to

    def check(self, g: Globals) -> None:
        """Flags that do not go together. Failure."""
        flags = self.flags
        count = len(self.apps.apps)
        if flags.values["pod-manifest"]:
            clash = {
                "volume",
                "mount",
                "pull-policy",
                "inherit-env",
                "set-env",
                "set-env-file",
                "port",
            } & flags.given
            if count or clash or flags.is_on("store-only") or flags.is_on("no-store"):
                raise Failure("conflicting flags set with --pod-manifest (see --help)")
        elif not count:
            raise Failure("must provide at least one image or specify the pod manifest")
        if self.ports() and "net" in flags.values and self.network != CONTAINED:
            raise Failure(f"--port flag does not work with '{self.network}' networking")
        self.tell(g)

    def tell(self, g: Globals) -> None:
        """What is accepted, and makes no difference."""
        if self.flags.is_on("no-overlay"):
            g.say("--no-overlay: images are mounted all the same, with an overlay that is the pod's alone")

    def check_running(self, g: Globals, apps: int, flavor: str = "linux") -> None:
        """Likewise, of what it takes to run. Failure."""
        flags = self.flags
        if flags.is_on("interactive") and apps > 1:
            raise Failure("interactive option only supports one image")
        measured.settings(g, flags)
        if flags.is_on("mds-register"):
            from executor.rkt import metadata

            if flavor == stage1.FOREIGN and flags.values["net"] == "none":
                raise Failure("--mds-register flag does not work with --net=none. Please use 'host', 'default' or an "
                              "equivalent network")  # fmt: skip
            metadata.check()
        if flavor == stage1.FOREIGN:
            return  # the rest is the stage1's to heed
        _check_ipc(flags.values["ipc"], flavor)
        if flavor == FLY and "net" in flags.given and self.network != selection.HOST:
            g.say(f"--net={flags.values['net']}: flavor fly has this machine's network all the same")

    def ports(self) -> list[dict[str, Any]]:
        """`--port=NAME:[IP:]PORT`, as a PodManifest has them. Failure."""
        made = []
        for text in self.flags.lists["port"]:
            name, *address, port = text.split(":", 1)[:1] + text.partition(":")[2].rsplit(":", 1)
            try:
                ips = {"hostIP": str(ip_address(address[0]))} if address else {}
            except ValueError:
                raise Failure(f'--port: "{address[0]}" is not a valid IP') from None
            if not AC_NAME.fullmatch(name):
                raise Failure(f'--port: "{name}" is not a valid port name')
            if not port.isdecimal() or not 0 < int(port) < 1 << 16:
                raise Failure(f'--port: "{text}" is not in name:[ip:]port format')
            made.append({"name": name, "hostPort": int(port), **ips})
        return made

    def sandbox_ports(self) -> list[dict[str, Any]]:
        """Likewise, of `app sandbox`: `--port=NAME:PROTOCOL:PORT:ADDRESS:PORT`. Failure."""
        made = []
        for text in self.flags.lists["port"]:
            parts = text.split(":", 3)
            ip, _, host = parts[-1].rpartition(":")
            if len(parts) != 4 or not ip:
                raise Failure(f'--port: "{text}" is not in name:protocol:podPort:hostIP:hostPort format')
            name, protocol, port, _ = parts
            if not AC_NAME.fullmatch(name):
                raise Failure(f'--port: "{name}" is not a valid port name')
            if protocol not in {"tcp", "udp"}:
                raise Failure(f'--port: invalid protocol "{protocol}"')
            try:
                ip = str(ip_address(ip))
            except ValueError:
                raise Failure(f'--port: could not parse IP "{ip}"') from None
            for number in (port, host):
                if not number.isdecimal() or not 0 < int(number) < 1 << 16:
                    raise Failure(f'--port: "{number}" is not a valid port number')
            pod = {
                "name": name,
                "protocol": protocol,
                "port": int(port),
                "count": 1,
                "socketActivated": False,
            }
            made.append({"name": name, "hostPort": int(host), "hostIP": ip, "podPort": pod})
        return made

    @property
    def network(self) -> str:
        """none, host, or CONTAINED: of its own, with what `nets` names."""
        return next((word for word in (selection.HOST, selection.NONE) if word in self.nets), CONTAINED)

    def image_files(self) -> dict[str, bool]:
        """Files of /etc of which an image's own goes before ours. True: even if it has none."""
        lists = self.flags.lists
        made = {} if lists["hosts-entry"] else {"hosts": False}
        if lists["dns"] == ["none"]:
            made["resolv.conf"] = True
        elif not (lists["dns"] or lists["dns-search"] or lists["dns-opt"] or self.flags.values["dns-domain"]):
            made["resolv.conf"] = False
        return made

    def stage1(self, g: Globals) -> stage1.Choice:
        """Of the flags, or the configuration's default. Failure."""
        return stage1.choose(g, self.flags.values)

    def flavor(self, g: Globals) -> str:
        """Its flavor. Failure."""
        return self.stage1(g).flavor

    def environments(self) -> Environments:
        """Failure."""
        explicit = dict(_pair(text, "--set-env") for text in self.flags.lists["set-env"])
        file: dict[str, str] = {}
        for path in self.flags.lists["set-env-file"]:
            file |= _read_environment(path)
        parent = dict(os.environ) if self.flags.is_on("inherit-env") else {}
        return Environments(parent, file, explicit)

    def etc(self, hostname: str) -> dict[str, str]:
        """The files of /etc that the flags ask for. Failure."""
        made = {}
        values, lists = self.flags.values, self.flags.lists
        servers = [one for text in lists["dns"] for one in text.split(",")]
        special = {"host", "none"} & set(servers)
        if special and len(servers) > 1:
            raise Failure(f"--dns={special.pop()} stands alone")
        others = bool(values["dns-domain"] or lists["dns-search"] or lists["dns-opt"])
        if special and others:
            raise Failure("--dns=host and --dns=none take no other flags of --dns-…")
        if "host" in special:
            made["resolv.conf"] = Path("/etc/resolv.conf").read_text()
        elif not special and (servers or others):
            made["resolv.conf"] = resolv_conf(
                servers, values["dns-domain"], lists["dns-search"], lists["dns-opt"]
            )
        entries = [one for text in lists["hosts-entry"] for one in text.split(",")]
        if set(entries) == {"host"}:
            made["hosts"] = Path("/etc/hosts").read_text()
        elif "host" in entries:
            raise Failure("--hosts-entry=host stands alone")
        elif entries:
            lines = [" ".join(_pair(entry, "--hosts-entry")) for entry in entries]
            made["hosts"] = _hosts(hostname) + "".join(f"{line}\n" for line in lines)
        elif self.network != selection.HOST:
            made["hosts"] = _hosts(hostname)
        return made


def sockets() -> tuple[int, ...]:
    """Those that systemd hands to this process. Failure."""
    count = os.environ.get("LISTEN_FDS", "")
    if os.environ.get("LISTEN_PID") != str(os.getpid()) or not count.isdecimal():
        return ()
    if int(count) > _MOST:
        raise Failure(f"LISTEN_FDS: {count} sockets are more than {_MOST}")
    return tuple(range(_FIRST, _FIRST + int(count)))


def _check_ipc(mode: str, flavor: str) -> None:
    if mode not in {"", "auto", "private", "parent"}:
        raise Failure(f"unknown value for --ipc parameter: {mode}")
    if mode == "parent" and flavor not in {"linux", "fly"}:
        raise Failure(f"--ipc=parent: flavor {flavor} requires a private IPC namespace (try to remove --ipc)")
    if mode == "private" and flavor == "fly":
        raise Failure("--ipc=private: flavor fly has no namespaces (try to remove --ipc)")


def _hosts(hostname: str) -> str:
    """As rkt's `stage1/net/rootfs/etc/hosts-fallback`, with the name of the pod."""
    return (
        f"127.0.0.1 localhost localhost.domain localhost4 localhost4.localdomain4 {hostname}\n"
        "::1 localhost ip6-localhost ip6-loopback localhost6 localhost6.localdomain6\n"
    )


def _pair(text: str, what: str) -> tuple[str, str]:
    key, equals, value = text.partition("=")
    if not equals or not key:
        raise Failure(f"{what}: {text!r} is not NAME=VALUE")
    return key, value


def _read_environment(path: str) -> dict[str, str]:
    """Lines NAME=VALUE; empty ones and those that begin with # or ; are left out. Failure."""
    try:
        lines = Path(path).read_text().splitlines()
    except OSError as error:
        raise Failure(f"--set-env-file {path}: {error.strerror}") from None
    kept = (line.strip() for line in lines)
    return dict(_pair(line, f"--set-env-file {path}") for line in kept if line and line[0] not in "#;")
