"""What an app asks of the kernel's security module: an AppArmor profile, or an SELinux context, for its programs.

Set as the attribute `exec` of the process that will spawn the app (proc(5), /proc/PID/attr); the kernel hands it on. A
kernel without that module cannot enforce it, and then the app does not start (appc ace.md: an executor must refuse).
"""

import errno
import os
from typing import Any, Final

ISOLATORS: Final = ("os/linux/apparmor-profile", "os/linux/selinux-context")
APPARMOR, SELINUX = "AppArmor", "SELinux"
DEFAULT_PROFILE: Final = "gantry-default"
"""The AppArmor profile of the node: what `RuntimeDefault` means."""
_SIGN_OF_LIFE: Final = {
    APPARMOR: "/sys/module/apparmor/parameters/enabled",
    SELINUX: "/sys/fs/selinux/enforce",
}
_ATTRIBUTES: Final = {
    APPARMOR: ("/proc/thread-self/attr/apparmor/exec", "/proc/thread-self/attr/exec"),
    SELINUX: ("/proc/thread-self/attr/exec",),
}
Label = tuple[str, str]
"""The module, and the label."""


def read(name: str, value: Any) -> Label:
    """The label of an isolator. Raises ValueError."""
    if name == "os/linux/apparmor-profile":
        profile = value.get("profile")
        if not isinstance(profile, str) or not profile or any(not one.isprintable() for one in profile):
            raise ValueError(f"{profile!r} is not the name of a profile")
        return APPARMOR, profile
    parts = [str(value.get(key) or "") for key in ("user", "role", "type", "level")]
    if not all(parts) or any(":" in part for part in parts[:3]) or not ":".join(parts).isprintable():
        raise ValueError("user, role, type and level must be set, the first three without a colon")
    return SELINUX, ":".join(parts)


def files_context(label: Label | None) -> str:
    """The SELinux context of files that the app may use: container-selinux's type, at the level of its programs."""
    if label is None or label[0] != SELINUX:
        return ""
    return f"system_u:object_r:container_file_t:{label[1].split(':', 3)[3]}"


def why_not(module: str) -> str:
    """Why this machine cannot enforce labels of the module; "" when it can."""
    try:
        with open(_SIGN_OF_LIFE[module], encoding="ascii") as file:
            on = module == SELINUX or file.read().strip() == "Y"
    except OSError:
        on = False
    return "" if on else f"{module} is not on in this kernel"


def set_for_exec(label: Label) -> None:
    """The next program of this process, or of one that it forks, gets the label. Raises OSError."""
    path, text = attribute(label)
    fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(fd, text.encode())
    except OSError as error:
        raise OSError(error.errno, reason(label, error.errno or 0)) from None
    finally:
        os.close(fd)


def attribute(label: Label) -> tuple[str, str]:
    """The file of a process that takes the label, and what has to be written to it."""
    module, text = label
    paths = _ATTRIBUTES[module]
    path = next((one for one in paths if os.path.exists(one)), paths[-1])
    return path, f"exec {text}" if module == APPARMOR else text


def reason(label: Label, number: int) -> str:
    """Why the kernel did not take it, from the errno of that write."""
    module, text = label
    if module == APPARMOR and number == errno.ENOENT:
        return f"the profile {text} is not loaded"
    if module == SELINUX and number == errno.EINVAL:
        return f"the policy has no context {text}"
    return os.strerror(number)
