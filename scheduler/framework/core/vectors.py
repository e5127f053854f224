"""Amounts that placement compares: whole thousandths of cpus, MB of memory and disk and GPUs, and port ranges.

Mesos rounds every scalar to three decimals (`src/common/values.cpp`), so integers of thousandths add and compare
exactly as the master does. Not here: roles and reservations; the shell turns offers into these amounts.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

Ranges = tuple[tuple[int, int], ...]
"""Sorted, disjoint, both ends included."""


@dataclass(frozen=True, slots=True)
class Vector:
    """Thousandths: of a cpu, of a MB (2**20 bytes) of memory, of a MB of disk, of a GPU (only whole ones exist)."""

    cpus: int = 0
    mem: int = 0
    disk: int = 0
    gpus: int = 0

    def __add__(self, other: Vector) -> Vector:
        return Vector(
            self.cpus + other.cpus, self.mem + other.mem, self.disk + other.disk, self.gpus + other.gpus
        )

    def __sub__(self, other: Vector) -> Vector:
        return Vector(
            self.cpus - other.cpus, self.mem - other.mem, self.disk - other.disk, self.gpus - other.gpus
        )

    def covers(self, other: Vector) -> bool:
        return (
            self.cpus >= other.cpus
            and self.mem >= other.mem
            and self.disk >= other.disk
            and self.gpus >= other.gpus
        )


ZERO = Vector()


def join(*many: Ranges) -> Ranges:
    """The union of ranges; touching ones become one."""
    result: list[tuple[int, int]] = []
    for begin, end in sorted(one for ranges in many for one in ranges):
        if result and begin <= result[-1][1] + 1:
            result[-1] = (result[-1][0], max(end, result[-1][1]))
        else:
            result.append((begin, end))
    return tuple(result)


def has_ports(ranges: Ranges, ports: Iterable[int]) -> bool:
    return all(any(begin <= port <= end for begin, end in ranges) for port in ports)


def without_ports(ranges: Ranges, ports: Iterable[int]) -> Ranges:
    """The ranges with single ports cut out."""
    left = list(ranges)
    for port in ports:
        for index, (begin, end) in enumerate(left):
            if begin <= port <= end:
                left[index : index + 1] = [
                    part for part in ((begin, port - 1), (port + 1, end)) if part[0] <= part[1]
                ]
                break
    return tuple(left)
