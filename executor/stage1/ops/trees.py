"""Operations that make an app's root: detached copies of mounts, the overlay, /dev, and where all that is put."""

import contextlib
import os
import re
import stat
from collections.abc import Sequence
from typing import Final, NamedTuple

from executor.stage1 import syscalls, userns
from executor.stage1.ops.base import IN_ROOT, O_DIR, Context, StageError, open_or_make
from executor.stage1.syscalls import (
    MS_BIND,
    MS_NODEV,
    MS_NOEXEC,
    MS_NOSUID,
    MS_RDONLY,
    RESOLVE_BENEATH,
    RESOLVE_IN_ROOT,
    RESOLVE_NO_MAGICLINKS,
    RESOLVE_NO_SYMLINKS,
)

# Documentation/admin-guide/devices.txt
DEVICE_NUMBERS: Final = {
    "null": (1, 3),
    "zero": (1, 5),
    "full": (1, 7),
    "random": (1, 8),
    "urandom": (1, 9),
    "tty": (5, 0),
    "console": (1, 3),
}
LINKS: Final = {
    "fd": "/proc/self/fd",
    "stdin": "/proc/self/fd/0",
    "stdout": "/proc/self/fd/1",
    "stderr": "/proc/self/fd/2",
    "ptmx": "pts/ptmx",
}
_MAX_LOWERS: Final = 3950  # of a page, when the rest of the options has its part
_PLAIN: Final = re.compile(r"[A-Za-z0-9._-]+(/[A-Za-z0-9._-]+)*")  # nothing that overlayfs wants escaped


class TakeTree(NamedTuple):
    """Copy the mount(s) at a path of ours into a detached tree."""

    name: str
    path: str
    recursive: bool = True

    def describe(self) -> str:
        return f"take {self.path} as {self.name}"

    def execute(self, context: Context) -> None:
        flags = syscalls.OPEN_TREE_CLONE | (syscalls.AT_RECURSIVE if self.recursive else 0)
        context.fds[self.name] = syscalls.open_tree(self.path, flags)


class TakeVolume(NamedTuple):
    """Copy a volume, or a path that must lie below it, into a detached tree.

    A missing sub path is made as a directory with the volume's own rights, as the kubelet does; one that leads out of
    the volume fails (EXDEV), whatever symbolic links the pod itself has put there (CVE-2017-1002101).
    """

    name: str
    source: str
    sub_path: str
    recursive: bool

    def describe(self) -> str:
        below = f", path {self.sub_path} in it" if self.sub_path else ""
        return f"take volume {self.source}{below}"

    def execute(self, context: Context) -> None:
        flags = syscalls.OPEN_TREE_CLONE | (syscalls.AT_RECURSIVE if self.recursive else 0)
        if not self.sub_path:
            context.fds[self.name] = syscalls.open_tree(self.source, flags)
            return
        volume = os.open(self.source, O_DIR | os.O_CLOEXEC)
        try:
            resolve = RESOLVE_BENEATH | RESOLVE_NO_MAGICLINKS
            try:
                place = syscalls.openat2(volume, self.sub_path, os.O_PATH, resolve)
            except FileNotFoundError:
                mode = os.fstat(volume).st_mode & 0o777
                place = open_or_make(volume, self.sub_path, resolve, directory=True, mode=mode)
        finally:
            os.close(volume)
        try:
            context.fds[self.name] = syscalls.open_tree("", flags | syscalls.AT_EMPTY_PATH, place)
        finally:
            os.close(place)


class CheckPropagation(NamedTuple):
    """A volume whose mounts are to travel must lie on a mount from (and, `both` ways, to) which they do."""

    source: str
    both: bool

    def describe(self) -> str:
        return f"pass mounts on {'both ways ' if self.both else ''}below {self.source}"

    def execute(self, context: Context) -> None:
        fd = os.open(self.source, os.O_PATH | os.O_CLOEXEC)
        try:
            with open(f"/proc/self/fdinfo/{fd}", encoding="ascii") as file:
                number = next(line.split()[1] for line in file if line.startswith("mnt_id:"))
        finally:
            os.close(fd)
        with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as file:
            fields = next(line.split() for line in file if line.split()[0] == number)
        tags = tuple(fields[6 : fields.index("-")])  # proc(5): optional fields
        if not any(tag.startswith("shared:" if self.both else ("shared:", "master:")) for tag in tags):
            raise StageError(
                f"{self.describe()}: {fields[4]} is not a shared mount{'' if self.both else ', nor a slave'}"
            )


class MountOverlay(NamedTuple):
    """The app's root: its own writable layer over the image's rendered layers (uppermost first)."""

    target: str
    lowers: tuple[str, ...]
    upper: str
    work: str
    device_files: bool
    mapped: bool = False
    context: str = ""  # SELinux's, of all files in it
    user_attributes: bool = False

    def describe(self) -> str:
        labelled = f", labelled {self.context}" if self.context else ""
        return f"mount {'id-mapped ' if self.mapped else ''}overlay on {self.target}{labelled}"

    def execute(self, context: Context) -> None:
        if self.mapped:
            # Each onto itself, in this mount namespace: the kernel takes layers from no other (before 6.15).
            for path in (*self.lowers, os.path.dirname(self.upper)):
                _map_in_place(path, context.fds["users"])
        flags = 0 if self.device_files else MS_NODEV
        _mount_layers(self.target, self.lowers, (self.upper, self.work), flags, self.further())
        context.fds["root"] = os.open(self.target, O_DIR | os.O_CLOEXEC)

    def further(self) -> str:
        """Options, each after a comma, but for those that name directories."""
        return f"{',userxattr' if self.user_attributes else ''}{labelled(self.context)}"


class TakeOverlay(NamedTuple):
    """An image's layers (uppermost first) as one read-only, detached tree. It is mounted on `place` meanwhile."""

    name: str
    lowers: tuple[str, ...]
    place: str
    mapped: bool = False

    def describe(self) -> str:
        return f"take {len(self.lowers)} {'id-mapped ' if self.mapped else ''}layers as {self.name}"

    def execute(self, context: Context) -> None:
        if self.mapped:
            for path in self.lowers:
                if f"mapped:{path}" not in context.fds:  # images share layers; the kernel maps a mount once
                    _map_in_place(path, context.fds["users"])
                    context.fds[f"mapped:{path}"] = -1
        _mount_layers(self.place, self.lowers, (), MS_RDONLY)
        context.fds[self.name] = syscalls.open_tree(self.place, syscalls.OPEN_TREE_CLONE)
        syscalls.umount(self.place)


def _mount_layers(
    target: str, lowers: tuple[str, ...], writable: tuple[str, ...], flags: int, options: str = ""
) -> None:
    """An overlay; `writable` are its upper and work directories, or nothing. options: more, each after a comma."""
    # Descriptors instead of paths: no limit on their length, and no character needs escaping.
    place, names = _below_one(lowers)
    fds = [os.open(path, O_DIR | os.O_CLOEXEC) for path in (*(() if place else lowers), *writable)]
    paths = [f"/proc/self/fd/{fd}" for fd in fds]
    data = layers(names if place else paths[: len(lowers)], paths[len(paths) - len(writable) :]) + options
    if writable:
        forget_volatile(writable[-1])
    here = os.open(".", os.O_PATH | os.O_CLOEXEC)
    try:
        if place:
            os.chdir(place)
        syscalls.mount("overlay", target, "overlay", flags, data)
    finally:
        os.fchdir(here)
        for fd in (*fds, here):
            os.close(fd)


def layers(lowers: Sequence[str], writable: Sequence[str]) -> str:
    """The options that name an overlay's directories; `writable`: the upper one and that for work, or none."""
    data = f"lowerdir={':'.join(lowers)}"
    return data + (f",upperdir={writable[0]},workdir={writable[1]},volatile" if writable else "")


def forget_volatile(work: str) -> None:
    """What tells the kernel that the directories may be damaged since the host went down: nobody brings them back then.

    What is written to an app's root does not outlive the app. Without `volatile` each end of an app would wait until
    all that anybody has written to the host's file system is on its disk (Documentation/filesystems/overlayfs.rst).
    """
    dirty, mark, place = marks(work)
    try:
        os.rmdir(place)
    except FileNotFoundError:
        return  # it is mounted for the first time
    except OSError:
        for remove, path in ((os.unlink, dirty), (os.rmdir, mark)):
            with contextlib.suppress(FileNotFoundError):
                remove(path)
        os.rmdir(place)


def marks(work: str) -> tuple[str, str, str]:
    """What `volatile` leaves behind: a file and two directories, in the order in which they can be removed."""
    place = os.path.join(work, "work", "incompat")
    return f"{place}/volatile/dirty", f"{place}/volatile", place


def labelled(context: str) -> str:
    """The mount option for SELinux, in quotes: levels have commas (mount(8))."""
    return f',context="{context}"' if context else ""


def _below_one(lowers: tuple[str, ...]) -> tuple[str, tuple[str, ...]]:
    """The directory that a store keeps its layers in, and their plain names below it; ("", ()) when there is no such.

    The kernel finds many layers sooner by names than by descriptors. It takes one page of options (mount(2)).
    """
    place = os.path.dirname(os.path.dirname(lowers[0]))
    if len(place) < 2 or not all(path.startswith(f"{place}/") for path in lowers):
        return "", ()
    names = tuple(path[len(place) + 1 :] for path in lowers)
    if sum(map(len, names)) + len(names) > _MAX_LOWERS or not all(map(_PLAIN.fullmatch, names)):
        return "", ()
    return place, names


def _map_in_place(path: str, users: int) -> None:
    tree = userns.mapped(path, users)
    target = os.open(path, O_DIR | os.O_CLOEXEC)
    try:
        syscalls.move_mount(tree, target)
    finally:
        os.close(target)
        os.close(tree)


class Attach(NamedTuple):
    """Put a detached tree on a path of the app's root, made when missing (root:root 0755)."""

    name: str
    target: str
    attributes: int = 0
    recursive: bool = False
    no_links: bool = False
    mapped: bool = False
    propagation: int = syscalls.MS_PRIVATE  # 0: as it is

    def describe(self) -> str:
        return f"mount {self.name} on {self.target}{' (id-mapped)' if self.mapped else ''}"

    def execute(self, context: Context) -> None:
        tree = context.fds.pop(self.name)
        resolve = RESOLVE_IN_ROOT | RESOLVE_NO_SYMLINKS if self.no_links else IN_ROOT
        directory = stat.S_ISDIR(os.fstat(tree).st_mode)
        target = open_or_make(context.fds["root"], self.target, resolve, directory=directory)
        try:
            syscalls.mount_setattr(
                tree, self.attributes, recursive=self.recursive, propagation=self.propagation,
                users=context.fds["users"] if self.mapped else -1,
            )  # fmt: skip
            syscalls.move_mount(tree, target)
        finally:
            os.close(target)
            os.close(tree)


class MakePlace(NamedTuple):
    """Have a directory in the app's root, which no link is on the way to."""

    target: str

    def describe(self) -> str:
        return f"make a place for {self.target}"

    def execute(self, context: Context) -> None:
        resolve = RESOLVE_IN_ROOT | RESOLVE_NO_SYMLINKS
        os.close(open_or_make(context.fds["root"], self.target, resolve, directory=True))


class MountDev(NamedTuple):
    """A small /dev: a tmpfs that honours no device files, with the six harmless ones bound onto it.

    They are the ground's (`NewGround`). Its console is the null device too, until the app gets a terminal (`Terminal`):
    the host's is nobody's to write to.
    So an app with CAP_MKNOD (it is in the default set) can make device files anywhere and open none. In a user
    namespace (`base`) nobody can make any (user_namespaces(7)): there the six are made instead of bound, which is seven
    mounts less. With `every` (privileged) the host's device files are made in it.
    """

    every: bool = False
    base: int = 0
    context: str = ""  # SELinux's, of all files in it

    def describe(self) -> str:
        return f"mount /dev{', labelled ' + self.context if self.context else ''}"

    def execute(self, context: Context) -> None:
        resolve = RESOLVE_IN_ROOT | RESOLVE_NO_SYMLINKS
        target = open_or_make(context.fds["root"], "dev", resolve, directory=True)
        flags = MS_NOSUID | MS_NOEXEC | (0 if self.every or self.base else MS_NODEV)
        of_tmpfs, of_devpts = self.options()
        os.fchdir(target)
        syscalls.mount("tmpfs", ".", "tmpfs", flags, of_tmpfs)
        os.close(target)
        dev = syscalls.openat2(context.fds["root"], "dev", O_DIR, resolve)
        os.fchdir(dev)
        if self.every:
            _copy_devices(context.fds.pop("devices"), dev)
        elif not (self.base and _make_devices(dev)):
            for name in DEVICE_NUMBERS:
                os.close(os.open(name, os.O_CREAT | os.O_WRONLY | os.O_CLOEXEC, 0o666, dir_fd=dev))
                syscalls.mount(f"/dev/{name}", name, None, MS_BIND)
        for name in ("pts", "shm", "mqueue"):
            os.mkdir(name, 0o755, dir_fd=dev)
        for name, to in LINKS.items():
            os.symlink(to, name, dir_fd=dev)
        syscalls.mount("devpts", "pts", "devpts", MS_NOSUID | MS_NOEXEC, of_devpts)
        os.close(dev)

    def options(self) -> tuple[str, str]:
        """Of the tmpfs and of the devpts."""
        label = labelled(self.context)
        return f"mode=755,size=64k{label}", f"newinstance,ptmxmode=0666,mode=0620,gid={self.base + 5}{label}"


def _make_devices(dev: int) -> bool:
    """Make the harmless devices in the directory `dev`; False where not even we may."""
    before = os.umask(0)
    try:
        for name, (major, minor) in DEVICE_NUMBERS.items():
            os.mknod(name, stat.S_IFCHR | 0o666, os.makedev(major, minor), dir_fd=dev)
    except PermissionError:  # the very first
        return False
    finally:
        os.umask(before)
    return True


def _copy_devices(source: int, dev: int) -> None:
    """Make every device file directly in the directory `source`, which is closed, in the directory `dev` too."""
    try:
        for name in os.listdir(source):
            info = os.stat(name, dir_fd=source, follow_symlinks=False)
            if name not in LINKS and (stat.S_ISCHR(info.st_mode) or stat.S_ISBLK(info.st_mode)):
                os.mknod(name, info.st_mode, info.st_rdev, dir_fd=dev)
                os.chmod(name, stat.S_IMODE(info.st_mode), dir_fd=dev)
    finally:
        os.close(source)
    with contextlib.suppress(FileExistsError):
        os.mknod("console", stat.S_IFCHR | 0o600, os.makedev(*DEVICE_NUMBERS["console"]), dir_fd=dev)


class OpenDevices(NamedTuple):
    """The host's device files, for `MountDev` to make all of them."""

    def describe(self) -> str:
        return "look at /dev"

    def execute(self, context: Context) -> None:
        context.fds["devices"] = os.open("/dev", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)


class OwnVolume(NamedTuple):
    """A volume that the image itself asks for: the app's own files there, on a mount of their own, so always writable.

    What the image has there is there, with its owners; it is the app's alone, and as new as its root at every start.
    """

    path: str

    def describe(self) -> str:
        return f"make {self.path} a volume of the app's own"

    def execute(self, context: Context) -> None:
        place = open_or_make(context.fds["root"], self.path, IN_ROOT, directory=True)
        try:
            tree = syscalls.open_tree("", syscalls.OPEN_TREE_CLONE | syscalls.AT_EMPTY_PATH, place)
            try:
                syscalls.move_mount(tree, place)
            finally:
                os.close(tree)
        finally:
            os.close(place)


class ReadOnlyRoot(NamedTuple):
    """The app cannot write to its root (volumes and /dev stay as they are)."""

    def describe(self) -> str:
        return "make the root read-only"

    def execute(self, context: Context) -> None:
        syscalls.mount_setattr(context.fds["root"], syscalls.MOUNT_ATTR_RDONLY, recursive=False)


class PivotRoot(NamedTuple):
    """Make `root` the root and let go of every other mount."""

    def describe(self) -> str:
        return "pivot_root"

    def execute(self, context: Context) -> None:
        os.fchdir(context.fds["root"])
        syscalls.pivot_root(".", ".")
        syscalls.umount(".")
        os.chdir("/")
