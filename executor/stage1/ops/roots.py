"""Operations that make an app's root where nothing else is: on top of the root of a mount namespace almost empty.

Every app begins with a copy of the same namespace (`bare`, the ground): a read-only file system in memory, with places
to mount on. There the image's layers are put, out of them the overlay is made, on "/", and that is where the app is.
So there is nothing to be let go of: no copies of the host's mounts, and no old root. What lies below the app's root
cannot be reached from it (path_resolution(7): ".." of a root, and of a mount on top of another's root, is itself), as
the kernel's own first root lies below everybody's; a copy of the namespace that an app makes for itself has it locked
(mount_namespaces(7)). It is the app's own layers, and can be written to by nobody.
"""

import os
import stat
from typing import Final, NamedTuple

from executor.stage1 import syscalls
from executor.stage1.ops.base import O_DIR, Context, StageError
from executor.stage1.ops.trees import DEVICE_NUMBERS, forget_volatile, labelled, layers
from executor.stage1.syscalls import MS_BIND, MS_NODEV, MS_NOSUID, MS_RDONLY, MS_REMOUNT

PLACES: Final = 18
"""Directories of the ground to mount on, named by their numbers."""
FURTHER: Final = "m"
"""A directory of it where a copy has as many as it takes; named so that 500 of them fit into a page (mount(2))."""
NULL: Final = "null"
"""What `OpenNull` opens is called among the descriptors."""
_OWN: Final = "mode=755,size=64k"
_MORE: Final = "mode=755,size=1m"
UP: Final = "/.."
"""What is mounted on "/", from below it: unlike "/" itself it is looked up (fs/namei.c, handle_dots)."""


class NewGround(NamedTuple):
    """A tmpfs over `path` that becomes the root of the namespace that apps begin with a copy of."""

    path: str

    def describe(self) -> str:
        return f"mount the ground for apps on {self.path}"

    def execute(self, context: Context) -> None:
        syscalls.mount("tmpfs", self.path, "tmpfs", MS_NOSUID, _OWN)
        root = context.fds["root"] = os.open(self.path, O_DIR | os.O_CLOEXEC)
        os.fchdir(root)
        for name in ("dev", FURTHER, *map(str, range(PLACES))):
            os.mkdir(name, 0o755)
        before = os.umask(0)
        try:
            for name, (major, minor) in DEVICE_NUMBERS.items():
                _make_device(f"dev/{name}", os.makedev(major, minor))
        finally:
            os.umask(before)


def _make_device(path: str, number: int) -> None:
    """Or bind the host's, where not even we may make one."""
    try:
        os.mknod(path, stat.S_IFCHR | 0o666, number)
    except PermissionError:
        os.close(os.open(path, os.O_CREAT | os.O_WRONLY | os.O_CLOEXEC, 0o666))
        host = f"/{path}" if not path.endswith("/console") else "/dev/null"
        syscalls.mount(host, path, None, MS_BIND)


class SealGround(NamedTuple):
    """Nobody writes to it any more, nor to what its device files are."""

    def describe(self) -> str:
        return "make the ground read-only"

    def execute(self, context: Context) -> None:
        syscalls.mount("none", "/", None, MS_REMOUNT | MS_RDONLY | MS_NOSUID)


class OpenNull(NamedTuple):
    """The ground's null device, for what is to be hidden: in the app's own /dev may be whatever a volume has there."""

    def describe(self) -> str:
        return "open the null device"

    def execute(self, context: Context) -> None:
        context.fds[NULL] = os.open("/dev/null", os.O_PATH | os.O_CLOEXEC)


class TakeLayers(NamedTuple):
    """Copy the mounts of an image's layers (uppermost first) into detached trees, each of its directory.

    With `writable` also that of a directory in which there are an upper one and one for work.
    """

    name: str
    lowers: tuple[str, ...]
    writable: str = ""
    work: str = ""

    def describe(self) -> str:
        above = f" and {self.writable}" if self.writable else ""
        return f"take {len(self.lowers)} layers{above} as {self.name}"

    def execute(self, context: Context) -> None:
        for number, path in enumerate((*self.lowers, *([self.writable] if self.writable else []))):
            try:
                context.fds[layer(self.name, number)] = syscalls.open_tree(path, syscalls.OPEN_TREE_CLONE)
            except OSError as error:
                raise StageError(f"take {path} as a layer of {self.name}: {error.strerror}") from None
        if self.writable:
            forget_volatile(f"{self.writable}/{self.work}")


def layer(name: str, number: int) -> str:
    """What a layer's tree is called among the descriptors."""
    return f"{name}.{number}"


class MountRoot(NamedTuple):
    """The app's root: its own writable layer over the image's, where it will be the root."""

    name: str
    number: int
    device_files: bool
    mapped: bool = False
    context: str = ""  # SELinux's, of all files in it
    user_attributes: bool = False
    upper: str = "upper"
    work: str = "work"

    def describe(self) -> str:
        label = f", labelled {self.context}" if self.context else ""
        return f"mount {'id-mapped ' if self.mapped else ''}overlay on /{label}"

    def execute(self, context: Context) -> None:
        *lowers, writable = (
            _put(context, layer(self.name, one), mapped=self.mapped, writable=one == self.number)
            for one in range(self.number + 1)
        )
        flags = 0 if self.device_files else MS_NODEV
        syscalls.mount("overlay", "/", "overlay", flags, self.options(tuple(lowers), writable))
        context.fds["root"] = os.open(UP, O_DIR | os.O_CLOEXEC)

    def options(self, lowers: tuple[str, ...], writable: str) -> str:
        """Of the overlay, when its layers are in these places."""
        further = f"{',userxattr' if self.user_attributes else ''}{labelled(self.context)}"
        return layers(lowers, (f"{writable}/{self.upper}", f"{writable}/{self.work}")) + further


class MountLayers(NamedTuple):
    """An image's layers as one read-only tree, which is not where it belongs yet."""

    name: str
    number: int
    mapped: bool = False

    def describe(self) -> str:
        return f"make one of {self.number} {'id-mapped ' if self.mapped else ''}layers of {self.name}"

    def execute(self, context: Context) -> None:
        lowers = [_put(context, layer(self.name, one), mapped=self.mapped) for one in range(self.number)]
        place = _place(context)
        syscalls.mount("overlay", place, "overlay", MS_RDONLY, layers(lowers, ()))
        context.fds[self.name] = os.open(place, O_DIR | os.O_CLOEXEC)


def _put(context: Context, name: str, *, mapped: bool, writable: bool = False) -> str:
    """A layer's tree, where an overlay finds it. The kernel takes layers from no other namespace (before 6.15)."""
    tree = context.fds.pop(name)
    place = _place(context)
    target = os.open(place, O_DIR | os.O_CLOEXEC)
    try:
        syscalls.mount_setattr(
            tree, 0 if writable else syscalls.MOUNT_ATTR_RDONLY, recursive=False,
            propagation=syscalls.MS_PRIVATE, users=context.fds["users"] if mapped else -1,
        )  # fmt: skip
        syscalls.move_mount(tree, target)
    finally:
        os.close(target)
        os.close(tree)
    return place


def _place(context: Context) -> str:
    number = context.places
    context.places += 1
    if number < PLACES:
        return f"/{number}"
    if number == PLACES:
        syscalls.mount("tmpfs", f"/{FURTHER}", "tmpfs", MS_NOSUID | MS_NODEV, _MORE)
    os.mkdir(f"/{FURTHER}/{number}")
    return f"/{FURTHER}/{number}"


class ChangeRoot(NamedTuple):
    """Make `root` the root of whoever comes from here: the mount that covers all others."""

    def describe(self) -> str:
        return "chroot"

    def execute(self, context: Context) -> None:
        os.fchdir(context.fds["root"])
        os.chroot(".")
