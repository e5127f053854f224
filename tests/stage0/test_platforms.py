"""Which image of an index is chosen."""

import pytest

from executor.stage0 import manifest as m
from executor.stage0.errors import ImageNotFound
from executor.stage0.platforms import host_platform, host_variants, variants

V2 = frozenset(("cx16", "lahf_lm", "popcnt", "sse4_1", "sse4_2", "ssse3", "fpu"))
V3 = V2 | {"avx", "avx2", "bmi1", "bmi2", "f16c", "fma", "abm", "movbe"}


@pytest.mark.parametrize(
    ("machine", "flags", "expected"),
    [
        ("x86_64", V3, ("v3", "v2", "", "v1")),
        ("x86_64", V3 - {"sse4_2"}, ("", "v1")),  # a level needs all below it
        ("x86_64", frozenset(), ("", "v1")),
        ("aarch64", frozenset(), ("v8", "")),
        ("armv7l", frozenset(), ("v7", "", "v6", "v5")),
        ("armv6l", frozenset(), ("v6", "", "v5")),
        ("riscv64", frozenset(), ("",)),
    ],
)
def test_variants(machine: str, flags: frozenset[str], expected: tuple[str, ...]) -> None:
    assert variants(machine, flags) == expected


def entry(number: int, platform: tuple[str, str], variant: str = "") -> m.Descriptor:
    return m.Descriptor(m.OCI_MANIFEST, f"sha256:{number:064x}", 1, platform, variant=variant)


def test_the_best_variant_is_chosen() -> None:
    mine, best = host_platform(), host_variants()[0]
    entries = (entry(1, ("linux", "vax")), entry(2, mine, "v99"), entry(3, mine), entry(4, mine, best))
    assert m.choose(m.Index(entries), mine) == entries[2 if best == "" else 3]
    assert m.choose(m.Index(entries[:3]), mine) == entries[2]
    assert m.choose(m.Index((*entries[2:3], entry(5, mine))), mine) == entries[2]  # the first of equals
    with pytest.raises(ImageNotFound, match=r"there are: linux/\w+/v99, linux/vax"):
        m.choose(m.Index(entries[:2]), mine)


def test_the_only_image_needs_no_platform() -> None:
    bare = entry(1, ("", ""))
    assert m.choose(m.Index((bare,)), host_platform()) == bare
    with pytest.raises(ImageNotFound, match="there are: none"):
        m.choose(m.Index((bare, entry(2, ("", "")))), host_platform())
