"""Where an ext4 without a journal, as small virtual machines have it, puts the files of pods.

There an inode that was freed less than a minute ago (five, when its block has yet to be written) is not taken again,
and for each new file all of those in the block group are looked at (fs/ext4/ialloc.c, `recently_deleted`). Directories
and files go to the group of the directory they are in; so pods that come and go in one place, thousands of inodes each
minute, make each other's starts slow. Directories below one that counts as the top of a hierarchy (EXT4_TOPDIR_FL, as
`chattr +T` sets it) go to groups of their own, wherever there is room, and what is in them goes there, too.

With a journal freed inodes are taken again at once, and one place means fewer blocks to write: nothing is changed.
"""

import fcntl
import os
import struct
from contextlib import suppress
from pathlib import Path
from typing import Final

_TOP: Final = 0x00020000
"""EXT4_TOPDIR_FL."""
_GET_FLAGS, _SET_FLAGS = 0x80086601, 0x40086602
"""ioctl_iflags(2)."""
_WORD: Final = struct.Struct("i4x")
_NO_JOURNAL: Final = "<none>"


def spread(directory: Path) -> None:
    """Let what is made in this directory be spread, where that is of use; where it cannot be told, leave it."""
    with suppress(OSError):
        if _lacks_journal(os.stat(directory).st_dev):
            _mark_as_top(directory)


def _lacks_journal(device: int) -> bool:
    """Raises OSError for what is no ext4 on a disk."""
    disk = os.path.basename(os.readlink(f"/sys/dev/block/{os.major(device)}:{os.minor(device)}"))
    return Path(f"/sys/fs/ext4/{disk}/journal_task").read_text(encoding="ascii").strip() == _NO_JOURNAL


def _mark_as_top(directory: Path) -> None:
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        (flags,) = _WORD.unpack(fcntl.ioctl(fd, _GET_FLAGS, bytes(_WORD.size)))
        if not flags & _TOP:
            fcntl.ioctl(fd, _SET_FLAGS, _WORD.pack(flags | _TOP))
    finally:
        os.close(fd)
