"""The executor's settings: from its flags and from the environment that a Mesos agent gives it. Parsed once."""

import argparse
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from executor.kvm.template import LIMIT
from executor.pods.enforcing import POLICIES, REFUSE
from executor.pods.rules import Rules
from executor.pods.sysctls import check_allowed
from executor.tpm.settings import TpmSettings, add_flags, tpm_settings
from shared.models.quantities import quantity_bytes
from shared.wire import IDLE_TIMEOUT_VARIABLE

FLAVORS: Final = ("linux", "fly", "nspawn", "kvm")
MAX_PIDS: Final = 4096
LOG_LEVELS: Final = ("debug", "info", "warning", "error")


@dataclass(frozen=True, slots=True)
class Settings:
    """state_dir: the image store, and pods when there is no sandbox. local_images: OCI layouts for localhost/NAME:TAG.

    image_config: the file of settings for images, or None. sandbox: where the agent wants our files, or None.
    listen_host, listen_port: of the node server; port 0 takes a free one. ip: what others reach this machine by.
    flavor: for pods without runtimeClassName. idle_timeout: seconds without a pod after which the executor leaves, 0
    for never. device_dir: where the files of GPUs are. kvm_kernel: of virtual machines, or None for the
    host's. kvm_templates: bytes of disk for those of virtual machines, 0 for none. rules: what pods may have here. tpm:
    measures starts, or None. metadata_key: the file of keys that pods sign with, or None for the machine's own.
    """

    state_dir: Path
    local_images: Path | None
    image_config: Path | None
    sandbox: Path | None
    listen_host: str
    listen_port: int
    ip: str
    flavor: str
    idle_timeout: float
    log_level: str
    device_dir: Path
    kvm_kernel: Path | None
    kvm_templates: int
    rules: Rules
    tpm: TpmSettings | None = None
    metadata_key: Path | None = None

    @property
    def pods_dir(self) -> Path:
        """Pods live in the sandbox, whose files the agent shows and collects."""
        return (self.sandbox or self.state_dir) / "pods"


def _disk(text: str) -> int:
    try:
        size = quantity_bytes(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
    if size < 0:
        raise argparse.ArgumentTypeError(f"{text} is less than nothing")
    return size


def parser() -> argparse.ArgumentParser:
    """The flags of `gantry executor`."""
    made = argparse.ArgumentParser(
        prog="gantry executor",
        description="Run pods for the Gantry scheduler. Started by a Mesos agent, with its MESOS_* environment.",
    )
    _add_node_flags(made)
    _add_pod_flags(made)
    add_flags(made)
    made.add_argument("--log-level", choices=LOG_LEVELS, default="info", help="(default: %(default)s)")
    return made


def _add_node_flags(made: argparse.ArgumentParser) -> None:
    made.add_argument(
        "--state-dir", type=Path, default=Path("/var/lib/gantry"), metavar="DIR",
        help="image store of this machine, shared by all executors (default: %(default)s)",
    )  # fmt: skip
    made.add_argument(
        "--local-images",
        type=Path,
        metavar="DIR",
        help="OCI layouts for images named localhost/NAME:TAG (DIR/NAME, tag TAG)",
    )
    made.add_argument(
        "--image-config", type=Path, metavar="FILE",
        help="settings for images, TOML: registries, mirrors, logins, who has to have signed what, when to collect",
    )  # fmt: skip
    made.add_argument(
        "--node-listen", default="0.0.0.0:0", metavar="HOST:PORT",
        help="address of the node server; port 0 takes a free one (default: %(default)s)",
    )  # fmt: skip


def _add_pod_flags(made: argparse.ArgumentParser) -> None:
    made.add_argument(
        "--default-flavor", choices=FLAVORS, default="linux",
        help="stage1 flavor of pods without runtimeClassName (default: %(default)s)",
    )  # fmt: skip
    made.add_argument(
        "--idle-timeout", type=float, metavar="SECONDS",
        help=f"leave after so long without a pod, 0: never (the scheduler's --executor-idle-timeout, which comes in "
        f"{IDLE_TIMEOUT_VARIABLE}, or else 0)",
    )  # fmt: skip
    made.add_argument(
        "--device-dir", type=Path, default=Path("/dev"), metavar="DIR",
        help="where the device files of GPUs are, nvidia0, nvidiactl, … (default: %(default)s)",
    )  # fmt: skip
    made.add_argument(
        "--kvm-kernel", type=Path, metavar="FILE",
        help="kernel of virtual machines, a bzImage whose modules are in /lib/modules (default: the newest in /boot)",
    )  # fmt: skip
    made.add_argument(
        "--kvm-templates", type=_disk, default=LIMIT, metavar="SIZE",
        help="disk for templates of virtual machines, of about 90 MB for each number of cpus in use; 0: machines boot "
        "(default: 1Gi)",
    )  # fmt: skip
    made.add_argument(
        "--seccomp-profiles", type=Path, metavar="DIR",
        help="profiles for seccompProfile.type Localhost (default: seccomp in the state directory)",
    )  # fmt: skip
    made.add_argument(
        "--pod-max-pids", type=int, default=MAX_PIDS, metavar="N",
        help="processes and threads that a pod may have, 0: as many as it likes (default: %(default)s)",
    )  # fmt: skip
    made.add_argument(
        "--reuse-namespaces", choices=("true", "false"), default="true",
        help="give the init of a pod that left nothing there and never used its network, with the namespaces that it "
        "holds, to the next pod of the same Kubernetes namespace (default: %(default)s)",
    )  # fmt: skip
    made.add_argument(
        "--allowed-unsafe-sysctls", default="", metavar="NAMES",
        help="kernel parameters for pods beside the safe ones, with commas between; net.core.* means all of it",
    )  # fmt: skip
    made.add_argument(
        "--unenforceable", choices=POLICIES, default=REFUSE,
        help="pods with isolators that this node cannot enforce: refuse them, or run them without and report each in "
        "the pod's status (default: %(default)s)",
    )  # fmt: skip
    made.add_argument(
        "--metadata-key", type=Path, metavar="FILE",
        help="keys that the metadata service signs with, the same on all machines whose pods verify one another's "
        "signatures (default: one of this machine's, in the state directory)",
    )  # fmt: skip


def settings(args: argparse.Namespace, environ: Mapping[str, str]) -> Settings:
    """Raises ValueError, one line that names the flag or variable that is wrong."""
    host, port = _host_port(args.node_listen)
    sandbox = environ.get("MESOS_SANDBOX") or environ.get("MESOS_DIRECTORY")
    return Settings(
        state_dir=args.state_dir.absolute(),
        local_images=None if args.local_images is None else args.local_images.absolute(),
        image_config=None if args.image_config is None else args.image_config.absolute(),
        sandbox=Path(sandbox) if sandbox and os.path.isabs(sandbox) else None,
        listen_host=host,
        listen_port=port,
        ip=_own_ip(host, environ),
        flavor=args.default_flavor,
        idle_timeout=_idle_timeout(args.idle_timeout, environ),
        log_level=args.log_level,
        device_dir=args.device_dir.absolute(),
        kvm_templates=args.kvm_templates,
        kvm_kernel=None if args.kvm_kernel is None else args.kvm_kernel.absolute(),
        rules=_rules(args),
        tpm=tpm_settings(args, args.state_dir),
        metadata_key=None if args.metadata_key is None else args.metadata_key.absolute(),
    )


def _rules(args: argparse.Namespace) -> Rules:
    if args.pod_max_pids < 0:
        raise ValueError(f"--pod-max-pids {args.pod_max_pids}: expected a number, or 0 for no limit")
    names = [name.strip() for name in args.allowed_unsafe_sysctls.split(",") if name.strip()]
    return Rules(
        seccomp_profiles=(args.seccomp_profiles or args.state_dir / "seccomp").absolute(),
        max_pids=args.pod_max_pids,
        unsafe_sysctls=tuple(map(check_allowed, names)),
        unenforceable=args.unenforceable,
        reuse_namespaces=args.reuse_namespaces == "true",
    )


def _idle_timeout(flag: float | None, environ: Mapping[str, str]) -> float:
    if flag is not None:
        name, seconds = "--idle-timeout", flag
    else:
        name, text = IDLE_TIMEOUT_VARIABLE, environ.get(IDLE_TIMEOUT_VARIABLE) or "0"
        try:
            seconds = float(text)
        except ValueError:
            raise ValueError(f"{name} {text!r}: expected seconds") from None
    if not 0 <= seconds < float("inf"):
        raise ValueError(f"{name} {seconds:g}: expected seconds, or 0 for never")
    return seconds


def _host_port(text: str) -> tuple[str, int]:
    host, colon, port = text.rpartition(":")
    if not colon or not port.isdecimal() or int(port) > 65535:
        raise ValueError(f"--node-listen {text!r}: expected HOST:PORT")
    return host.strip("[]") or "0.0.0.0", int(port)


def _own_ip(listen: str, environ: Mapping[str, str]) -> str:
    """The address to tell others: where we listen, else what the agent calls this machine."""
    endpoint = environ.get("MESOS_AGENT_ENDPOINT", "").rpartition(":")[0].strip("[]")
    for address in (listen, environ.get("LIBPROCESS_IP", ""), endpoint):
        if address not in {"", "0.0.0.0", "::"}:
            return address
    return "127.0.0.1"
