"""Flags as rkt's users write them (spf13/pflag): `--name value`, `--name=value`, `--bool[=true|false]`, anywhere.

Words and flags are handed over in their order, for most flags of `run` mean the image before them.
"""

# ruff: noqa: T201  (a command line prints)

import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Final

TRUE: Final = frozenset({"1", "t", "T", "TRUE", "true", "True"})
FALSE: Final = frozenset({"0", "f", "F", "FALSE", "false", "False"})


class Failure(Exception):
    """Something that rkt itself cannot do: one line. code: the exit code, if not the verb's usual one."""

    def __init__(self, text: str, code: int | None = None) -> None:
        super().__init__(text)
        self.code = code


USAGE: Final = 254
"""The exit code for a command line that cannot be read, of all verbs."""


class HelpAsked(Exception):
    """`--help`; the argument is the verb's Flags."""


def boolean(text: str) -> bool:
    """As Go's strconv.ParseBool. ValueError."""
    if text in TRUE:
        return True
    if text in FALSE:
        return False
    raise ValueError(f"{text!r} is neither true nor false")


@dataclass(frozen=True)
class _Flag:
    text: str
    take: Callable[[str], None]
    bare: str | None  # its value when it stands alone; None: the next word is the value
    words: frozenset[str] = frozenset()  # that are its value, all the same, when they follow


class Flags:
    """The flags of one verb. `values` has those that are not handed to a function, with their defaults."""

    def __init__(self, verb: str, usage: str) -> None:
        self.verb, self.usage = verb, usage
        self.values: dict[str, str] = {}
        self.lists: dict[str, list[str]] = {}
        self.given: set[str] = set()
        self._flags: dict[str, _Flag] = {}
        self._instead: dict[str, str] = {}

    def text(self, name: str, default: str, text: str, *, bare: str | None = None) -> None:
        """A flag with one value; the last one counts."""
        self.values[name] = default

        def take(value: str) -> None:
            self.values[name] = value

        self._flags[name] = _Flag(text, take, bare)

    def switch(self, name: str, text: str, *, default: bool = False) -> None:
        """A flag that is on or off."""
        self.values[name] = str(default).lower()

        def take(value: str) -> None:
            self.values[name] = str(boolean(value)).lower()

        self._flags[name] = _Flag(text, take, "true")

    def many(self, name: str, text: str) -> None:
        """A flag that may be given several times."""
        self.lists[name] = []
        self._flags[name] = _Flag(text, self.lists[name].append, None)

    def call(
        self,
        name: str,
        text: str,
        take: Callable[[str], None],
        *,
        bare: str | None = None,
        words: Iterable[str] = (),
    ) -> None:
        """A flag whose value goes to a function, which may raise ValueError. words: may follow as its value, bare or
        not."""
        self._flags[name] = _Flag(text, take, bare, frozenset(words))

    def deprecate(self, name: str, instead: str) -> None:
        """Say so, on stderr, whenever it is given; in pflag's words."""
        self._instead[name] = instead

    def refuse(self, names: str, why: str) -> None:
        """Flags of rkt's (blank-separated) that are not there: naming one is an error that says why."""
        for name in names.split():

            def take(_: str, name: str = name) -> None:
                raise Failure(f"--{name} is not supported: {why}")

            self._flags[name] = _Flag("", take, "")

    def names(self) -> list[str]:
        """Of those that help shows."""
        return sorted(name for name, flag in self._flags.items() if flag.text)

    def knows(self, name: str) -> bool:
        """Whether there is such a flag."""
        return name in self._flags or name == "help"

    def takes_value(self, name: str) -> bool:
        """Whether the next word is its value; also said of those that are not known."""
        return name not in self._flags or self._flags[name].bare is None

    def is_on(self, name: str) -> bool:
        """Of a switch."""
        return self.values[name] == "true"

    def parse(
        self,
        args: list[str],
        word: Callable[[str], None],
        app_argument: Callable[[str], None] | None = None,
        *,
        rest: bool = False,
    ) -> None:
        """Read a command line. Failure, HelpAsked.

        `app_argument` gets what stands between `--` and `---`; without it `--` ends the flags. rest: so does the first
        word.
        """
        at, inside = 0, False
        while at < len(args):
            arg = args[at]
            at += 1
            if inside:
                if arg == "---":
                    inside = False
                elif app_argument is not None:
                    app_argument(arg)
            elif arg == "--" and app_argument is not None:
                inside = True
                app_argument("")
            elif arg == "--":
                for left in args[at:]:
                    word(left)
                return
            elif arg == "---" or (not arg and app_argument is not None):
                continue
            elif arg.startswith("-") and arg != "-":
                at += self._one(arg, args[at] if at < len(args) else None)
            else:
                word(arg)
                if rest:
                    for left in args[at:]:
                        word(left)
                    return

    def _one(self, arg: str, following: str | None) -> int:
        """Take one flag; how many of the following words were its value."""
        name, equals, value = arg.lstrip("-").partition("=")
        if arg in {"-h", "--help"}:
            raise HelpAsked(self)
        flag = self._flags.get(name)
        if flag is None or not arg.startswith("--"):
            raise Failure(f"unknown flag: {arg.partition('=')[0]}", USAGE)
        if name in self._instead and name not in self.given:
            print(f"Flag --{name} has been deprecated, {self._instead[name]}", file=sys.stderr)
        self.given.add(name)
        used = 0
        if not equals:
            if flag.bare is not None and following not in flag.words:
                value = flag.bare
            elif following is None:
                raise Failure(f"flag needs an argument: --{name}", USAGE)
            else:
                value, used = following, 1
        try:
            flag.take(value)
        except ValueError as error:
            raise Failure(f"invalid argument {value!r} for --{name}: {error}", USAGE) from None
        return used

    def help(self) -> str:
        """What `--help` prints."""
        shown = {f"--{name}": flag for name, flag in self._flags.items() if flag.text}
        width = max(map(len, shown), default=0)
        lines = [f"  {name:<{width}}  {flag.text}" for name, flag in sorted(shown.items())]
        return "\n".join([f"usage: gantry rkt {self.verb} {self.usage}".rstrip(), "", "flags:", *lines])


def duration(text: str) -> float:
    """Seconds of a Go duration: `1h30m`, `24h`, `500ms`, `-1s`, `0`. ValueError."""
    units = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}
    sign, rest, total = -1.0 if text.startswith("-") else 1.0, text.lstrip("+-"), 0.0
    if rest == "0":
        return 0.0
    while rest:
        number = rest[: len(rest) - len(rest.lstrip("0123456789."))]
        rest = rest[len(number) :]
        unit = next((u for u in sorted(units, key=len, reverse=True) if rest.startswith(u)), "")
        if not number or not unit:
            raise ValueError(f"{text!r} is not a duration like 30m or 1h15m")
        total += float(number) * units[unit]
        rest = rest[len(unit) :]
    if not text.strip("+-"):
        raise ValueError("an empty duration")
    return sign * total
