"""Which image of an index is this machine's: operating system, architecture, and the variant of it.

Variants are feature levels, each running the programs of those below it: ARM's v5 to v7, x86-64's v1 to v4. The highest
that this processor has is the best; one without a variant is the lowest that is usual. Sources: OCI image-spec
`image-index.md`; Go `internal/buildcfg` (GOARM, GOAMD64); x86-64 psABI 1.0, 3.1.1.
"""

import functools
import os
from pathlib import Path

_ARCHITECTURES = {
    "x86_64": "amd64", "aarch64": "arm64", "armv7l": "arm", "armv6l": "arm", "i686": "386", "i386": "386",
    "ppc64le": "ppc64le", "s390x": "s390x", "riscv64": "riscv64",
}  # fmt: skip
_X86_LEVELS = (
    ("v2", {"cx16", "lahf_lm", "popcnt", "sse4_1", "sse4_2", "ssse3"}),
    ("v3", {"avx", "avx2", "bmi1", "bmi2", "f16c", "fma", "abm", "movbe"}),
    ("v4", {"avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl"}),
)


def host_platform() -> tuple[str, str]:
    """(os, architecture) of this machine in Go's words, as indexes have them."""
    machine = os.uname().machine
    return "linux", _ARCHITECTURES.get(machine, machine)


@functools.cache
def host_variants() -> tuple[str, ...]:
    """The variants that this machine runs, best first."""
    return variants(os.uname().machine, _flags())


def variants(machine: str, flags: frozenset[str]) -> tuple[str, ...]:
    """Best first; "" is an image that names none."""
    if machine == "x86_64":
        levels = ["", "v1"]
        for name, needed in _X86_LEVELS:
            if not needed <= flags:
                break
            levels.insert(0, name)
        return tuple(levels)
    if machine == "aarch64":
        return "v8", ""
    if machine in {"armv7l", "armv6l"}:
        return ("v7", "", "v6", "v5") if machine == "armv7l" else ("v6", "", "v5")
    return ("",)


def _flags() -> frozenset[str]:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("flags"):
                return frozenset(line.partition(":")[2].split())
    except OSError:
        pass
    return frozenset()
