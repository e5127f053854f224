"""Types of command-line flags that master and agent share; for argparse's `type=`."""

import argparse
import ipaddress

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
