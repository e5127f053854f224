"""What names, keys, ports and the like must look like; each check gives the complaint or None.

Rules and wording: apimachinery's `pkg/util/validation`. The longest part of each wording is what people search
the web for, so it is kept.
"""

from __future__ import annotations

import ipaddress
import re

_LABEL = "[a-z0-9]([-a-z0-9]*[a-z0-9])?"
_SUBDOMAIN = rf"{_LABEL}(\.{_LABEL})*"
_QUALIFIED = "([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]"
_VALUE = f"({_QUALIFIED})?"

_label = re.compile(_LABEL).fullmatch
_subdomain = re.compile(_SUBDOMAIN).fullmatch
_qualified = re.compile(_QUALIFIED).fullmatch
_value = re.compile(_VALUE).fullmatch
_port_characters = re.compile("[-a-z0-9]*").fullmatch
_printable = re.compile("[ -<>-~]+").fullmatch

_config_key = re.compile("[-._a-zA-Z0-9]+").fullmatch

_NAMES_HINT = "'MyName',  or 'my.name',  or '123-abc'"


def dns_label(text: str) -> str | None:
    """RFC 1123 label: names of containers, volumes, namespaces."""
    if len(text) > 63:
        return "must be no more than 63 characters"
    if _label(text):
        return None
    return (
        "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and "
        "end with an alphanumeric character (e.g. 'my-name',  or '123-abc', regex used for validation is "
        f"'{_LABEL}')"
    )


def dns_subdomain(text: str) -> str | None:
    """RFC 1123 subdomain: names of pods, nodes, most objects."""
    if len(text) > 253:
        return "must be no more than 253 characters"
    if _subdomain(text):
        return None
    return (
        "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must "
        "start and end with an alphanumeric character (e.g. 'example.com', regex used for validation is "
        f"'{_SUBDOMAIN}')"
    )


def qualified_name(text: str) -> str | None:
    """`name` or `prefix/name`: keys of labels, annotations, taints, resources."""
    prefix, slash, name = text.rpartition("/")
    if slash:
        if not prefix:
            return "prefix part must be non-empty"
        complaint = dns_subdomain(prefix)
        if complaint:
            return f"prefix part {complaint}"
    if not name:
        return "name part must be non-empty"
    if len(name) > 63:
        return "name part must be no more than 63 characters"
    if _qualified(name):
        return None
    return (
        "name part must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an "
        f"alphanumeric character (e.g. {_NAMES_HINT}, regex used for validation is '{_QUALIFIED}')"
    )


def label_value(text: str) -> str | None:
    """Value of a label."""
    if len(text) > 63:
        return "must be no more than 63 characters"
    if _value(text):
        return None
    return (
        "a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.', and must "
        "start and end with an alphanumeric character (e.g. 'MyValue',  or 'my_value',  or '12345', regex used "
        f"for validation is '{_VALUE}')"
    )


def port_name(text: str) -> str | None:
    """IANA service name: name of a container port."""
    if len(text) > 15:
        return "must be no more than 15 characters"
    if not _port_characters(text):
        return "must contain only alpha-numeric characters (a-z, 0-9), and hyphens (-)"
    if not any(letter.isalpha() for letter in text):
        return "must contain at least one letter (a-z)"
    if "--" in text:
        return "must not contain consecutive hyphens"
    if text[0] == "-" or text[-1] == "-":
        return "must not begin or end with a hyphen"
    return None


def port_number(port: int) -> str | None:
    """1 to 65535."""
    return None if 1 <= port <= 65535 else "must be between 1 and 65535, inclusive"


def environment_name(text: str) -> str | None:
    """Name of an environment variable (relaxed rule, on by default since 1.32)."""
    if _printable(text):
        return None
    return "a valid environment variable name must consist only of printable ASCII characters other than '='"


def config_key(text: str) -> str | None:
    """Key of a ConfigMap or Secret, which may become the name of a file."""
    if len(text) > 253:
        return "must be no more than 253 characters"
    if not _config_key(text):
        return (
            "a valid config key must consist of alphanumeric characters, '-', '_' or '.' (e.g. 'key.name',  or "
            "'KEY_NAME',  or 'key-name', regex used for validation is '[-._a-zA-Z0-9]+')"
        )
    if text in (".", ".."):
        return f"must not be '{text}'"
    return "must not start with '..'" if text.startswith("..") else None


def ip_address(text: str) -> str | None:
    """IPv4 or IPv6."""
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return "must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)"
    return None


def path_without_backsteps(text: str) -> str | None:
    """No `..` element."""
    return "must not contain '..'" if ".." in text.split("/") else None


def relative_path(text: str) -> str | None:
    """Neither absolute nor leading out."""
    if text.startswith("/"):
        return "must be a relative path"
    return path_without_backsteps(text)
