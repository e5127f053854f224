"""`completion bash`: a script for bash that completes verbs, flags, pods and images.

Verbs and flags are what they are when it is printed; pods and images are looked up when somebody presses TAB, as rkt's
own script does (rkt `rkt/completion.go`).
"""

# ruff: noqa: T201  (a command line prints)

import os
from importlib import import_module
from typing import Final

from executor.rkt.common import Globals, words
from executor.rkt.flags import Failure, Flags, HelpAsked

_PODS: Final = {
    "run-prepared": "prepared",
    "enter": "running",
    "attach": "running",
    "stop": "running",
    "rm": "prepare|exited",
    "export": "exited",
    "status": "",
    "cat-manifest": "",
    **{f"app {name}": "running" for name in ("add", "start", "stop", "rm", "list", "status", "exec")},
}
"""Verbs of pods, and in which states."""
_IMAGES: Final = frozenset(
    [
        "run",
        "prepare",
        *(f"image {name}" for name in ("rm", "cat-manifest", "export", "extract", "render", "verify")),
    ]
)

_SCRIPT: Final = """\
# bash completion for gantry-rkt, and for rkt if that is what it is called here
__gantry_rkt_pods() { # states
    "$rkt" list --no-legend 2> /dev/null | awk -F '\\t+' -v states="$1" '$1 != "" && $0 ~ states { print $1 }'
}
__gantry_rkt() {
    local cur=${COMP_WORDS[COMP_CWORD]} verb= word at flags= words= rkt=${COMP_WORDS[0]}
    local files; unset files
    for ((at = 1; at < COMP_CWORD; at++)); do
        word=${COMP_WORDS[at]}
        case $word in
            --) return ;;
            -* | = ) ;;
            *) case "$verb $word" in
@DOUBLE@
                *) [ -n "$verb" ] || verb=$word ;;
            esac ;;
        esac
    done
    case $verb in
@FLAGS@
        *) verb= flags='@GLOBAL@' ;;
    esac
    if [[ $cur == -* ]]; then
        COMPREPLY=($(compgen -W "$flags" -- "$cur"))
        return
    fi
    case $verb in
        '') words='@VERBS@' ;;
@SECOND@
@PODS@
        @IMAGES@) words=$("$rkt" image list --fields=name --no-legend 2> /dev/null) files='!*.aci' ;;
        *) files='' ;;
    esac
    COMPREPLY=($(compgen -W "$words" -- "$cur") ${files+$(compgen -f -X "$files" -- "$cur")})
}
complete -o default -o filenames -F __gantry_rkt gantry-rkt rkt
"""


def main(g: Globals, args: list[str]) -> int:
    """`completion SHELL`."""
    found = words(g.flags("SHELL"), args)
    if len(found) != 1:
        raise Failure("no shell specified; there is: bash" if not found else "name one shell; there is: bash")
    if found[0] != "bash":
        raise Failure(f"unsupported shell {found[0]!r}; there is: bash")
    print(script(), end="")
    return 0


def script() -> str:
    """For bash."""
    from executor.rkt.cli import VERBS

    shown = [name for name, (_, text) in VERBS.items() if text]
    first = list(dict.fromkeys(name.partition(" ")[0] for name in shown))
    groups: dict[str, list[str]] = {}
    for group, _, name in (one.partition(" ") for one in shown):
        if name:
            groups.setdefault(group, []).append(name)
    double = [f"                '{name}') verb='{name}' ;;" for name in shown if " " in name]
    flags = [f"        '{name}') flags='{' '.join(flags_of(name))}' ;;" for name in shown]
    flags += [f"        {group}) flags= ;;" for group in groups]
    second = [f"        {group}) words='{' '.join(names)}' ;;" for group, names in groups.items()]
    pods = [f"        '{name}') words=$(__gantry_rkt_pods '{state}') ;;" for name, state in _PODS.items()]
    made = _SCRIPT
    for key, value in {
        "DOUBLE": "\n".join(double),
        "FLAGS": "\n".join(flags),
        "GLOBAL": " ".join(f"--{name}" for name in Globals().flags().names()),
        "VERBS": " ".join(first),
        "SECOND": "\n".join(second),
        "PODS": "\n".join(pods),
        "IMAGES": " | ".join(f"'{name}'" for name in sorted(_IMAGES)),
    }.items():
        made = made.replace(f"@{key}@", value)
    return made


def flags_of(verb: str) -> list[str]:
    """`--name` of all flags of a verb, as its help shows them."""
    from executor.rkt.cli import VERBS

    before = dict(os.environ)
    os.environ |= {"RKT_EXPERIMENT_APP": "true", "RKT_EXPERIMENT_ATTACH": "true"}
    g = Globals(verb=verb)
    where, _, function = VERBS[verb][0].partition(":")
    try:
        getattr(import_module(where), function)(g, ["--help"])
    except HelpAsked as asked:
        flags: Flags = asked.args[0]
        return [f"--{name}" for name in flags.names()]
    finally:
        os.environ.clear()
        os.environ.update(before)
    raise AssertionError(f"{verb} has no --help")
