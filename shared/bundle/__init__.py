"""A self-contained archive of this very program: Python, its libraries, ours. Mesos agents run it as it is.

An agent needs no Python, no packages and no particular C library for it: everything down to the dynamic loader comes
along. It takes `sh`, `tar`, `gzip` and `sha256sum`, which every agent has.

    gantry/bin/gantry-executor   what an agent starts; also bin/gantry, bin/python3
    gantry/lib/                  the loader, the C library and every other shared library
    gantry/lib/python3.X/        the standard library, our packages and theirs, compiled
    gantry/bundle.json           what it was made of

The same program gives the same bytes, so that every scheduler of a cluster serves the same digest. A program that runs
from an unpacked bundle makes the archive that it came from.

Knows nothing of what it packs: it imports nothing of ours.
"""

from shared.bundle.archive import Bundle
from shared.bundle.cache import cached
from shared.bundle.contents import BundleError, contents
from shared.bundle.given import check
from shared.bundle.make import make

__all__ = ["Bundle", "BundleError", "cached", "check", "contents", "make"]
