"""What kubectl tells the creator of a pod, although the pod is taken: words that have no effect.

Rules and wording: Kubernetes `pkg/api/pod/warnings.go`; the last one is Gantry's own.
"""

from __future__ import annotations

from collections.abc import Iterator

from scheduler.registry.label_validation import apparmor_warnings
from scheduler.registry.resource import Object

_GONE = {
    "scheduler.alpha.kubernetes.io/critical-pod": ("v1.16", "priorityClassName"),
    "seccomp.security.alpha.kubernetes.io/pod": ("v1.27", "seccompProfile"),
    "security.alpha.kubernetes.io/sysctls": ("v1.11", "sysctls"),
    "security.alpha.kubernetes.io/unsafe-sysctls": ("v1.11", "sysctls"),
}
"""Annotations without effect: since when, and the field that has it."""
_GONE_OF_CONTAINER = "container.seccomp.security.alpha.kubernetes.io/"


def pod_warnings(pod: Object) -> list[str]:
    """Of a new pod, as it came."""
    return [*_annotations(pod), *apparmor_warnings(pod), *_token(pod)]


def _annotations(pod: Object) -> Iterator[str]:
    for key in (pod.get("metadata") or {}).get("annotations") or ():
        since, field = _GONE.get(key, ("", ""))
        if key.startswith(_GONE_OF_CONTAINER):
            since, field = _GONE["seccomp.security.alpha.kubernetes.io/pod"]
        if since:
            yield f'metadata.annotations[{key}]: non-functional in {since}+; use the "{field}" field instead'


def _token(pod: Object) -> Iterator[str]:
    if (pod.get("spec") or {}).get("automountServiceAccountToken") is True:
        yield "spec.automountServiceAccountToken: no token is mounted, for there are none of service accounts yet"
