"""Types of command-line flags that master and agent share; for argparse's `type=`."""

import argparse
import ipaddress
from pathlib import Path
from typing import Any

import orjson

from shared.mesos.durations import parse_duration


def duration(text: str) -> float:
    """Seconds of "5secs"."""
    try:
        return parse_duration(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def positive(text: str) -> float:
    """The same, more than zero."""
    seconds = duration(text)
    if seconds <= 0:
        raise argparse.ArgumentTypeError(f"{text}: must be more than zero")
    return seconds


def ip_address(text: str) -> str:
    try:
        return str(ipaddress.ip_address(text))
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text}: not an IP address") from error


def port(text: str) -> int:
    if not text.isdigit() or int(text) > 65535:
        raise argparse.ArgumentTypeError(f"{text}: not a port (0 to 65535)")
    return int(text)


def switch(text: str) -> bool:
    """true or false; for a flag that may also be given alone, or as --no-…: see `add_switch`."""
    if text not in ("true", "false", "1", "0"):
        raise argparse.ArgumentTypeError(f"{text}: expecting true or false")
    return text in ("true", "1")


def add_switch(parser: argparse.ArgumentParser, name: str, help: str) -> None:
    """--name, --name=true, --name=false and --no-name, as stout has them."""
    parser.add_argument(
        f"--{name}", type=switch, nargs="?", const=True, default=False, metavar="BOOL", help=help
    )
    parser.add_argument(f"--no-{name}", dest=name, action="store_const", const=False, help=argparse.SUPPRESS)


def file_path(text: str) -> Path:
    """`/path` or `file:///path`."""
    return Path(text.removeprefix("file://"))


def json_object(text: str) -> dict[str, Any]:
    """JSON, or the path of a file with it."""
    try:
        data = text.encode() if text.lstrip().startswith("{") else file_path(text).read_bytes()
        obj = orjson.loads(data)
    except OSError as error:
        raise argparse.ArgumentTypeError(f"{text}: {error.strerror}") from error
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text}: {error}") from error
    if not isinstance(obj, dict):
        raise argparse.ArgumentTypeError(f"{text}: expecting a JSON object")
    return obj


def domain(text: str) -> dict[str, Any]:
    """DomainInfo."""
    obj = json_object(text)
    fault = obj.get("fault_domain")
    if not isinstance(fault, dict):
        raise argparse.ArgumentTypeError("`domain` must define `fault_domain`")
    named = {part: (fault.get(part) or {}).get("name") for part in ("region", "zone")}
    for part, name in named.items():
        if not isinstance(name, str):
            raise argparse.ArgumentTypeError(f"`fault_domain` must define `{part}` with a name")
    return {"fault_domain": {part: {"name": name} for part, name in named.items()}}


def region(owner: dict[str, Any]) -> str | None:
    """Of a message with a `domain`."""
    fault = (owner.get("domain") or {}).get("fault_domain") or {}
    name = (fault.get("region") or {}).get("name")
    return None if name is None else str(name)
