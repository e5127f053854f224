"""What users may ask of Gantry where Kubernetes has no field for it: annotations of pods, and of namespaces for the
pods created in them."""

from typing import Final

ROLE: Final = "gantry.io/role"
"""The Mesos role whose offers a pod takes."""

EXECUTOR: Final = "gantry.io/executor"
DEDICATED: Final = "dedicated"
SHARED: Final = "shared"

PLACEMENT: Final = "gantry.io/placement"
"""Whether a pod's node is filled up before others (binpack), or the emptiest is taken (spread)."""
STRATEGIES: Final = ("binpack", "spread")
