"""What pods may have on this node, whoever asks: the executor's settings that its pods feel."""

from dataclasses import dataclass
from pathlib import Path

from executor.pods.enforcing import REFUSE
from executor.pods.seccomp import DEFAULT_PROFILES


@dataclass(frozen=True, slots=True)
class Rules:
    """seccomp_profiles: the directory of those that pods may name (type Localhost). max_pids: processes and threads of
    one pod, 0 for no limit. unsafe_sysctls: names, and prefixes with `*`, that are allowed beside the safe ones.
    unenforceable: what becomes of pods with isolators that the node cannot enforce, see `enforcing`. reuse_namespaces:
    those that a pod has not used may be the next one's (see `executor.stage1.reuse`)."""

    seccomp_profiles: Path = DEFAULT_PROFILES
    max_pids: int = 0
    unsafe_sysctls: tuple[str, ...] = ()
    unenforceable: str = REFUSE
    reuse_namespaces: bool = True


NO_RULES = Rules()
