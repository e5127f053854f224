"""`trust`: an OpenPGP key for images that begin with a prefix, into the administrator's configuration directory."""

import sys
from pathlib import Path

from executor.rkt.common import Globals, words
from executor.rkt.flags import Failure
from executor.rkt.lookup import image_settings
from executor.stage0.errors import ImageError
from executor.stage0.trust import keyfetch, manage
from executor.stage0.trust.keystore import Keystore
from executor.stage0.trust.manage import PublicKey

_UNBOUNDED = (
    "aborting due to implicit unbounded trust (root domain): name a --prefix=example.com/foo, or say --root"
)


def main(g: Globals, args: list[str]) -> int:
    """`trust --prefix=PREFIX [KEY…]` or `trust --root KEY…`; without KEY those that the prefix's pages name."""
    flags = g.flags("[flags] [KEY…]")
    flags.text("prefix", "", "of the names of the images that the key may sign")
    flags.switch("root", "the key may sign every image")
    flags.switch("skip-fingerprint-review", "do not ask")
    flags.switch("insecure-allow-http", "take keys over plain HTTP")
    places = words(flags, args)
    prefix, root = flags.values["prefix"].removesuffix("/*"), flags.is_on("root")
    if not prefix and not root:
        raise Failure(_UNBOUNDED if places else "name a prefix with --prefix, or say --root and a key")
    if prefix and root:
        raise Failure("--root and --prefix usage mutually exclusive")
    if "://" in prefix:
        raise Failure(f"--prefix must not contain a URL scheme, omit {prefix.partition('://')[0]}://")
    if root and not places:
        raise Failure("--root needs a key: there is no page that could name the keys of everybody")
    if flags.is_on("insecure-allow-http"):
        g.insecure.add("http")
    keystore = Keystore((Path(g.local_config, "trustedkeys"), Path(g.system_config, "trustedkeys")))
    try:
        keystore.place(prefix)
        found = keyfetch.fetch(prefix, places, image_settings(g, "http://" if "http" in g.insecure else ""))
        for place, keys in found:
            for key in keys:
                asked = flags.is_on("skip-fingerprint-review") or (
                    g.trust_keys_from_https and place.startswith("https://")
                )
                if not asked:
                    _review(prefix, place, key)
                path = manage.add(keystore, prefix, key)
                whose = "root key" if root else f'key for prefix "{prefix}"'
                g.say(f'Added {whose} at "{path}"')
    except (ImageError, ValueError) as error:
        raise Failure(str(error)) from None
    return 0


def _review(prefix: str, place: str, key: PublicKey) -> None:
    """Show the key and ask. Failure where nobody says yes."""
    if not sys.stdin.isatty():
        raise Failure(
            f"{place}: key {key.fingerprint}: nobody is there to review its fingerprint; "
            "give --skip-fingerprint-review when you know that it is right"
        )
    users = "".join(f"\n\t{''.join(c if c.isprintable() else '?' for c in user)}" for user in key.users)
    sys.stderr.write(
        f'prefix: "{prefix}"\nkey: "{place}"\ngpg key fingerprint is: {key.shown}{users}\n'
        "Are you sure you want to trust this key (yes/no)? "
    )
    sys.stderr.flush()
    if sys.stdin.readline().strip().lower() not in {"yes", "y"}:
        raise Failure(f"key {key.fingerprint} is not trusted: nobody said yes")
