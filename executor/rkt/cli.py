"""`gantry rkt VERB …`, also installed as `gantry-rkt`: finds the verb, imports only its module."""

# ruff: noqa: T201  (a command line prints)

import os
import platform
import sys
from importlib import import_module

from executor.rkt.common import Globals
from executor.rkt.flags import Failure, Flags, HelpAsked
from executor.stage0.errors import ImageError

FAILED = 254
SAY_ONE = frozenset({"app sandbox", "app list", "app status"})
"""Verbs whose own failures are 1, in rkt too."""

VERBS: dict[str, tuple[str, str]] = {
    "version": ("executor.rkt.cli:version", "what this is"),
    "config": ("executor.rkt.config:show", "the configuration, put together"),
    "fetch": ("executor.rkt.images:fetch", "get images into the store, print their ids"),
    "trust": ("executor.rkt.trust:main", "trust a key for images that begin with a prefix"),
    "image list": ("executor.rkt.images:listing", "what is in the store"),
    "image rm": ("executor.rkt.images:remove", "remove images"),
    "image gc": ("executor.rkt.images:collect", "remove images that nobody has used lately"),
    "image cat-manifest": ("executor.rkt.images:cat_manifest", "an image's manifest"),
    "image export": ("executor.rkt.imagefiles:export", "an image as an ACI file"),
    "image extract": ("executor.rkt.imagefiles:extract", "an image's own content as files"),
    "image render": ("executor.rkt.imagefiles:render", "an image's content with what it depends on"),
    "image verify": ("executor.rkt.images:verify", "whether the store still has what came"),
    "run": ("executor.rkt.run:main", "run a pod in the foreground"),
    "prepare": ("executor.rkt.prepare:main", "make a pod, print its UUID"),
    "run-prepared": ("executor.rkt.run:prepared", "run a pod that was prepared"),
    "list": ("executor.rkt.show:listing", "what pods there are"),
    "status": ("executor.rkt.show:status", "how a pod is"),
    "cat-manifest": ("executor.rkt.show:cat_manifest", "a pod's manifest"),
    "enter": ("executor.rkt.enter:main", "run one more program in an app, as the app"),
    "attach": ("executor.rkt.attach:main", "to the streams or the terminal of an app that runs"),
    "stop": ("executor.rkt.end:stop", "stop pods"),
    "rm": ("executor.rkt.end:rm", "remove pods that do not run"),
    "export": ("executor.rkt.export:main", "what an app has made of its image, as an image"),
    "app sandbox": ("executor.rkt.app:sandbox", "run a pod whose apps come and go"),
    "app add": ("executor.rkt.app:add", "add an app to such a pod"),
    "app start": ("executor.rkt.app:start", "start an app that was added, or has ended"),
    "app stop": ("executor.rkt.app:stop", "stop an app"),
    "app rm": ("executor.rkt.app:remove", "remove an app"),
    "app list": ("executor.rkt.app:listing", "a pod's apps and their states"),
    "app status": ("executor.rkt.app:status", "how an app is"),
    "app exec": ("executor.rkt.enter:main", "as `enter`"),
    "attest": ("executor.rkt.measured:attest", "have the TPM sign what this machine has started"),
    "metadata-service": ("executor.rkt.metadata:main", "tell pods what they may ask about themselves"),
    "completion": ("executor.rkt.completion:main", "a script for bash that completes all this"),
    "gc": ("executor.rkt.end:gc", "remove pods that have ended long enough ago"),
    "image fetch": ("executor.rkt.images:fetch", ""),
}
ABSENT = {
    "api-service": "rkt's gRPC service is not there; use `list` and `status` with --format=json",
}


def version(g: Globals, args: list[str]) -> int:
    """`version`: lines that scripts know, `NAME: VALUE`."""
    from gantry import __version__

    flags = g.flags()
    flags.parse(args, lambda _: None)
    machine = {"x86_64": "amd64", "aarch64": "arm64"}.get(platform.machine(), platform.machine())
    print(f"rkt Version: 1.30.0+gantry.{__version__}")
    print("appc Version: 0.8.11")
    print(f"Python Version: {platform.python_version()}")
    print(f"OS/Arch: linux/{machine}")
    print("Features: +TPM -SDJOURNAL")
    return 0


def usage(prefix: str = "") -> str:
    """Of all verbs, or those of a group."""
    shown = {name: text for name, (_, text) in VERBS.items() if text and name.startswith(prefix)}
    width = max(map(len, shown))
    lines = [f"  {name:<{width}}  {text}" for name, text in shown.items()]
    return "\n".join(["usage: gantry rkt [flags] COMMAND …", "", "commands:", *lines, "",
                      "`gantry rkt COMMAND --help` says more."])  # fmt: skip


def main(argv: list[str] | None = None) -> int:
    """Run one verb. 254 for what this program cannot do, else what the verb says; `run`: as the pod's apps ended."""
    args = list(sys.argv[1:] if argv is None else argv)
    g = Globals()
    flags: Flags = g.flags()
    found: list[str] = []
    try:
        early, args = _flags_of_verbs(flags, args)
        flags.parse(args, found.append, rest=True)
        if early and not found:
            raise Failure(f"unknown flag: {early[0].partition('=')[0]}")
        _complete(found)
        at = _words_of_verb(found)
        found[at:at] = early
        if not found:
            print("rkt: missing command", file=sys.stderr)
            print(usage(), file=sys.stderr)
            return 2
        return _verb(g, found)
    except HelpAsked:
        print(usage())
        return 0
    except Failure as error:
        print(f"rkt: {error}", file=sys.stderr)
        return FAILED
    except BrokenPipeError:
        os.dup2(
            os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno()
        )  # or the interpreter's end would complain
        return FAILED


def _flags_of_verbs(flags: Flags, args: list[str]) -> tuple[list[str], list[str]]:
    """A verb's own flags may stand before it, too: (those, the rest). One without `=` takes the next word along,
    unless that is a verb."""
    verbs = {name.partition(" ")[0] for name in VERBS} | set(ABSENT)
    early: list[str] = []
    rest: list[str] = []
    at = 0
    while at < len(args) and args[at] not in verbs and args[at].startswith("--") and args[at] != "--":
        arg, count = args[at], 1
        following = args[at + 1] if at + 1 < len(args) and "=" not in arg else "-"
        if following not in verbs and not following.startswith("-") and flags.takes_value(arg[2:]):
            count = 2
        known = flags.knows(arg[2:].partition("=")[0])
        (rest if known else early).extend(args[at : at + count])
        at += count
    return early, rest + args[at:]


def _complete(found: list[str]) -> None:
    """As in rkt a word of a verb may be short for the only one that begins so."""
    for at in range(min(2, len(found))):
        before = f"{found[0]} " if at else ""
        names = {
            name.removeprefix(before).partition(" ")[0]
            for name in (*VERBS, *ABSENT, "help")
            if name.startswith(before)
        }
        matches = [name for name in names if name.startswith(found[at])]
        if len(matches) == 1 and found[at]:
            found[at] = matches[0]


def _words_of_verb(found: list[str]) -> int:
    """How many words the verb has: `image list` two."""
    return 2 if " ".join(found[:2]) in VERBS else min(len(found), 1)


def _verb(g: Globals, found: list[str]) -> int:
    name, args = found[0], found[1:]
    if name == "help":
        name, args = " ".join(args), ["--help"]
        if not name:
            raise HelpAsked(g.flags())
    if f"{name} " in {f"{verb.split(' ')[0]} " for verb in VERBS if " " in verb}:
        below = {verb.partition(" ")[2] for verb in VERBS if verb.startswith(f"{name} ")}
        if not args or args[0] in {"-h", "--help"}:
            print(usage(f"{name} "))
            return 0
        if args[0].startswith("-"):
            raise Failure(f"{name}: name one of {', '.join(sorted(below))}")
        name, args = f"{name} {args[0]}", args[1:]
    if name in ABSENT:
        raise Failure(f"{name} is not supported: {ABSENT[name]}")
    if name not in VERBS:
        raise Failure(f"unknown command {name!r}; there are: {', '.join(VERBS)}")
    g.verb = name
    try:
        return _call(g, VERBS[name][0], args)
    except HelpAsked as asked:
        print(asked.args[0].help())
        return 0
    except Failure as error:
        g.say(str(error))
        return error.code or (1 if name in SAY_ONE else FAILED)
    except KeyboardInterrupt:
        return 130


def _call(g: Globals, where: str, args: list[str]) -> int:
    """What a verb does. Failure, also for what nobody has foreseen: a disk that is full, or not to be written to."""
    module, _, function = where.partition(":")
    try:
        return int(getattr(import_module(module), function)(g, args))
    except ImageError as error:
        raise Failure(str(error)) from None
    except BrokenPipeError:
        raise
    except OSError as error:
        raise Failure(f"{error.filename}: {error.strerror}" if error.filename else str(error)) from None


if __name__ == "__main__":
    sys.exit(main())
