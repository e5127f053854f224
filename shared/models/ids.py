"""Names that are made, not given: generated names, task ids."""

from __future__ import annotations

from random import Random

_ALPHABET = "bcdfghjklmnpqrstvwxz2456789"
"""No vowels and no look-alikes, as in apimachinery's `util/rand`: no bad words by accident."""

_SUFFIX_LENGTH = 5
_LONGEST_NAME = 63


def generated_name(prefix: str, random: Random) -> str:
    """`web-` -> `web-x2k9p`; the prefix is cut so that the name stays a DNS label."""
    suffix = "".join(random.choice(_ALPHABET) for _ in range(_SUFFIX_LENGTH))
    return prefix[: _LONGEST_NAME - _SUFFIX_LENGTH] + suffix


def task_id(pod_uid: str, attempt: int) -> str:
    """The Mesos task id of a pod's attempt (0, 1, ...): `<pod uid>.<attempt>`."""
    return f"{pod_uid}.{attempt}"


def parse_task_id(text: str) -> tuple[str, int]:
    """`<pod uid>.<attempt>` -> (uid, attempt). Raises ValueError for an id that is not ours."""
    uid, dot, attempt = text.rpartition(".")
    if not dot or not uid or not attempt.isascii() or not attempt.isdigit():
        raise ValueError(f"{text!r} is not a task id of the form <pod uid>.<attempt>")
    return uid, int(attempt)
