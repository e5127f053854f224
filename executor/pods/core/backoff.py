"""How long to wait before the next try.

The rules are the kubelet's (k8s.io/client-go/util/flowcontrol/backoff.go as used by pkg/kubelet): a container's first
restart is at once, the next ones wait 10 s, 20 s, … 300 s after the end; 10 minutes without a restart forget it all.
Image pulls wait 10 s … 300 s, the sandbox 1 s … 120 s.
"""

from typing import Final

RESTART_INITIAL: Final = 10.0
RESTART_CAP: Final = 300.0
RESTART_FORGET: Final = 600.0

PULL_INITIAL: Final = 10.0
PULL_CAP: Final = 300.0
PULL_SHOW_AFTER: Final = 1.0

SANDBOX_INITIAL: Final = 1.0
SANDBOX_CAP: Final = 120.0


def doubling(initial: float, cap: float, failures: int) -> float:
    """Seconds to wait after the `failures`-th failure in a row (1, 2, …)."""
    # The exponent is limited so that a pod that fails for years does not overflow a float.
    return min(cap, initial * 2.0 ** min(failures - 1, 32))


def restart_delay(restarts: int) -> float:
    """Seconds between the end of a container and its next start, after `restarts` restarts in a row."""
    return 0.0 if restarts == 0 else doubling(RESTART_INITIAL, RESTART_CAP, restarts)
