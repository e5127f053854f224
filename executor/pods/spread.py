"""Where an ext4 without a journal, as small virtual machines have it, puts the files of pods.

There an inode that was freed less than a minute ago (five, when its block has yet to be written) is not taken again,
and for each new file those in the block group are looked at, one by one (fs/ext4/ialloc.c, `recently_deleted`). A
directory goes to the group of the one it is made in, and files to their directory's; so pods that come and go in one
place, thousands of inodes each minute, make each other's starts slow. Here they are made in turn in many directories
that are in groups of their own, and moved to where they belong.

Directories below one that counts as the top of a hierarchy (EXT4_TOPDIR_FL, as `chattr +T` sets it) go to the group
with the fewest directories; to find that takes a look at all groups, so it is not done for each pod.

With a journal freed inodes are taken again at once, and one place means fewer blocks to write: nothing is changed.
"""

import fcntl
import itertools
import os
import random
import struct
from contextlib import suppress
from pathlib import Path
from typing import Final

PLACES: Final = 512
"""The more, the fewer such inodes are in each; a group has 128 MiB of the disk."""
_TOP: Final = 0x00020000
"""EXT4_TOPDIR_FL."""
_GET_FLAGS, _SET_FLAGS = 0x80086601, 0x40086602
"""ioctl_iflags(2)."""
_WORD: Final = struct.Struct("i4x")
_NO_JOURNAL: Final = "<none>"


class Spread:
    """Directories in `place`, which is made when it is needed; several processes may use it."""

    def __init__(self, place: Path) -> None:
        self._place = place
        self._turns = itertools.cycle([""])
        self._names = itertools.count()

    def open(self) -> None:
        """Have them where they are of use: on the file system of what will be made. Raises OSError."""
        if not _lacks_journal(self._place.parent):
            return
        self._place.mkdir(exist_ok=True, mode=0o700)
        _mark_as_top(self._place)
        places = [f"{self._place}/{number}" for number in range(PLACES)]
        random.shuffle(places)  # others use them, too
        self._turns = itertools.cycle(places)

    def make(self, path: str, mode: int) -> None:
        """A directory, as os.mkdir."""
        place = next(self._turns)
        if not place:
            os.mkdir(path, mode)
            return
        if os.path.lexists(path):
            raise FileExistsError(f"{path} is there already")
        made = f"{place}/{os.getpid()}.{next(self._names)}"
        try:
            try:
                os.mkdir(made, mode)
            except FileNotFoundError:  # it is the first there
                with suppress(FileExistsError):
                    os.mkdir(place, 0o700)
                os.mkdir(made, mode)
            os.rename(made, path)
        except FileNotFoundError:  # somebody removes our places
            os.mkdir(path, mode)

    def collect(self) -> None:
        """Remove what somebody left who was killed between the two: what belongs to nobody who lives."""
        if not self._place.is_dir():
            return
        for made in self._place.glob("*/*"):
            owner = made.name.partition(".")[0]
            if owner.isdecimal() and int(owner) != os.getpid() and not os.path.exists(f"/proc/{owner}"):
                try:
                    made.rmdir()
                except OSError:
                    pass  # somebody else was sooner


def _lacks_journal(directory: Path) -> bool:
    """Of what is no ext4 on a disk, or cannot be told, False."""
    device = os.stat(directory).st_dev
    try:
        disk = os.path.basename(os.readlink(f"/sys/dev/block/{os.major(device)}:{os.minor(device)}"))
        task = Path(f"/sys/fs/ext4/{disk}/journal_task").read_text(encoding="ascii")
    except OSError:
        return False
    return task.strip() == _NO_JOURNAL


def _mark_as_top(directory: Path) -> None:
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        (flags,) = _WORD.unpack(fcntl.ioctl(fd, _GET_FLAGS, bytes(_WORD.size)))
        if not flags & _TOP:
            fcntl.ioctl(fd, _SET_FLAGS, _WORD.pack(flags | _TOP))
    finally:
        os.close(fd)
