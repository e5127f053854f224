"""`gantry bundle`: write the archive by which Gantry reaches machines that have no Python (shared/bundle)."""

import argparse
import platform
import sys
from pathlib import Path

from gantry import __version__
from shared.bundle import BundleError, contents, make
from shared.progress import Bar

ABOUT = (
    "Pack this program, its Python and every library they need into one archive that runs on any Linux of this "
    "machine's architecture. It has the executor for Mesos agents (bin/gantry-executor) and all other commands "
    "(bin/gantry). The same program gives the same bytes."
)


def parser() -> argparse.ArgumentParser:
    result = argparse.ArgumentParser(prog="gantry bundle", description=ABOUT)
    name = f"gantry-{__version__}-{platform.machine()}.tar.gz"
    result.add_argument(
        "file", nargs="?", type=Path, default=Path(name), metavar="FILE", help="(default: %(default)s)"
    )
    return result


def main(argv: list[str]) -> int:
    """`gantry bundle`; exit code 0, or 1 when no bundle can be made or written."""
    args = parser().parse_args(argv)
    try:
        if (args.file.exists() and not args.file.is_file()) or not args.file.absolute().parent.is_dir():
            raise BundleError(f"{args.file}: not a file in a directory that is there")
        with Bar("making the bundle") as bar:
            bundle = make(args.file, contents(__version__), bar)
    except BundleError as error:
        print(f"gantry: error: {error}", file=sys.stderr)
        return 1
    except OSError as error:
        print(f"gantry: error: {error.filename or args.file}: {error.strerror or error}", file=sys.stderr)
        return 1
    print(f"{bundle.path}: {bundle.size / 1e6:.1f} MB, sha256:{bundle.digest}")
    return 0
