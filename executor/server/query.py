"""The query of a log request, as the kubelet reads it (v1 PodLogOptions; pkg/kubelet/server/server.go)."""

from collections.abc import Mapping
from datetime import UTC, datetime

from executor.pods.logread import LogOptions

KNOWN = frozenset(
    {"follow", "tailLines", "sinceSeconds", "sinceTime", "timestamps", "previous", "limitBytes", "container"}
)
_TRUE = {"true": True, "1": True, "": True, "false": False, "0": False}


class QueryError(ValueError):
    """A parameter is not known or not understood; the message is one line and names it."""


def log_options(query: Mapping[str, str], now: float) -> tuple[LogOptions, bool]:
    """The options, and whether the previous instance is meant. now: Unix time."""
    unknown = sorted(set(query) - KNOWN)
    if unknown:
        raise QueryError(f"unknown parameter {unknown[0]!r}; there are: {', '.join(sorted(KNOWN))}")
    if "sinceSeconds" in query and "sinceTime" in query:
        raise QueryError("at most one of sinceTime or sinceSeconds may be specified")
    since = None
    if (seconds := _number(query, "sinceSeconds", least=1)) is not None:
        since = now - seconds
    elif "sinceTime" in query:
        since = _time(query["sinceTime"])
    options = LogOptions(
        follow=_flag(query, "follow"),
        tail=_number(query, "tailLines", least=0),
        since=since,
        timestamps=_flag(query, "timestamps"),
        limit=_number(query, "limitBytes", least=1),
    )
    return options, _flag(query, "previous")


def _flag(query: Mapping[str, str], name: str) -> bool:
    text = query.get(name, "false").lower()
    if text not in _TRUE:
        raise QueryError(f"{name}: {text!r} is not true or false")
    return _TRUE[text]


def _number(query: Mapping[str, str], name: str, *, least: int) -> int | None:
    text = query.get(name)
    if text is None:
        return None
    if not text.isascii() or not text.isdigit() or int(text) < least:
        raise QueryError(f"{name}: {text!r} is not a number of at least {least}")
    return int(text)


def _time(text: str) -> float:
    try:
        when = datetime.fromisoformat(text)
    except ValueError:
        raise QueryError(f"sinceTime: {text!r} is not an RFC 3339 time") from None
    return (when if when.tzinfo else when.replace(tzinfo=UTC)).timestamp()
