"""`gantry image trust …`: which OpenPGP keys may have signed ACIs. Nothing is trusted that nobody has looked at."""

# ruff: noqa: T201  (a command line prints)

import argparse
import sys
from typing import Any

import orjson

from executor.stage0.errors import ImageRefused, InvalidImageName
from executor.stage0.settings import Settings, load
from executor.stage0.trust import manage
from executor.stage0.trust.manage import PublicKey
from executor.stage0.trust.policy import fingerprint


def add_commands(commands: Any, common: argparse.ArgumentParser) -> None:
    """The sub-commands `add`, `list` and `rm`."""
    parser = commands.add_parser("trust", help="the OpenPGP keys that may have signed ACIs")
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="COMMAND")
    add = verbs.add_parser(
        "add", parents=[common], help="trust keys for names that begin with PREFIX, or with --root for all",
        description="Without KEY, the keys that the pages of PREFIX name (appc discovery) are fetched.",
    )  # fmt: skip
    add.add_argument("words", nargs="*", metavar="PREFIX [KEY…]", help="KEY is a file or an https address")
    add.add_argument("--root", action="store_true", help="for every name; takes KEYs only")
    add.add_argument("--skip-fingerprint-review", action="store_true", help="trust what comes without asking")
    add.add_argument(
        "--fingerprint", action="append", default=[], help="trust this key without asking, and no other"
    )
    add.set_defaults(run=_add)
    listing = verbs.add_parser("list", parents=[common], help="the keys that are trusted, and for what")
    listing.set_defaults(run=_list)
    remove = verbs.add_parser(
        "rm", parents=[common], help="do not trust a key any more; images it signed are refused"
    )
    remove.add_argument("words", nargs="+", metavar="PREFIX FINGERPRINT")
    remove.add_argument("--root", action="store_true", help="a key of every name; takes FINGERPRINT only")
    remove.set_defaults(run=_remove)


def _prefix(settings: Settings, words: list[str], *, root: bool) -> tuple[str, list[str]]:
    if root:
        return "", words
    if not words:
        raise InvalidImageName("name a PREFIX, like example.com/team, or --root")
    settings.gate.keystore.place(words[0])
    return words[0], words[1:]


def _add(args: argparse.Namespace) -> int:
    from executor.stage0.trust import keyfetch  # with an HTTP client, which the other verbs do without

    settings = load(args.image_config)
    prefix, places = _prefix(settings, args.words, root=args.root)
    if args.root and not places:
        raise InvalidImageName("--root needs a KEY: there is no page that could name the keys of everybody")
    expected = [fingerprint(text) for text in args.fingerprint]
    added = []
    for place, keys in keyfetch.fetch(prefix, places, settings):
        for key in keys:
            if key.problem:
                raise ImageRefused(f"{place}: key {key.fingerprint} {key.problem}: not trusted")
            if expected:
                if key.fingerprint not in expected:
                    raise ImageRefused(
                        f"{place}: key {key.fingerprint} is not the one that --fingerprint names"
                    )
            elif not args.skip_fingerprint_review and not _agreed(prefix, place, key):
                raise ImageRefused(f"key {key.fingerprint} is not trusted: nobody said yes")
            path = manage.add(settings.gate.keystore, prefix, key)
            added.append(
                {
                    "prefix": prefix,
                    "fingerprint": key.fingerprint,
                    "users": list(key.users),
                    "path": str(path),
                }
            )
    for entry in added:
        if not args.json:
            print(f"key {entry['fingerprint']} is trusted for {prefix or 'every name'} now ({entry['path']})")
    if args.json:
        _json(added)
    return 0


def _agreed(prefix: str, place: str, key: PublicKey) -> bool:
    """Show the key and ask. ImageRefused where there is nobody to ask."""
    if not sys.stdin.isatty():
        raise ImageRefused(
            f"{place}: key {key.fingerprint}: nobody is there to review its fingerprint; give --fingerprint "
            f"{key.fingerprint} when you know that it is right"
        )
    print(
        f"for: {prefix or 'EVERY name (root)'}\nfrom: {place}\nkey: {key.shown} ({key.algorithm})",
        file=sys.stderr,
    )
    for user in key.users:
        print(f"     {''.join(c if c.isprintable() else '?' for c in user)}", file=sys.stderr)
    print("Do you trust this key? Compare the fingerprint with one that you got another way. (yes/no) ",
          end="", file=sys.stderr, flush=True)  # fmt: skip
    return sys.stdin.readline().strip().lower() == "yes"


def _list(args: argparse.Namespace) -> int:
    keystore = load(args.image_config).gate.keystore
    rows = [{"prefix": p, "fingerprint": f, "path": str(path)} for p, f, path in keystore.listing()]
    if args.json:
        _json(rows)
    for row in rows if not args.json else ():
        print(f"{row['prefix'] or '<every name>'}  {row['fingerprint']}  {row['path']}")
    return 0


def _remove(args: argparse.Namespace) -> int:
    settings = load(args.image_config)
    prefix, words = _prefix(settings, args.words, root=args.root)
    if len(words) != 1:
        raise InvalidImageName("name one FINGERPRINT" + ("" if args.root else " behind the PREFIX"))
    path = manage.remove(settings.gate.keystore, prefix, fingerprint(words[0]))
    if args.json:
        _json({"removed": str(path)})
    else:
        print(f"key {fingerprint(words[0])} is not trusted for {prefix or 'every name'} any more")
    return 0


def _json(value: object) -> None:
    print(orjson.dumps(value, option=orjson.OPT_INDENT_2).decode())
