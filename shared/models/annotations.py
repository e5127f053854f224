"""What users may ask of Gantry where Kubernetes has no field for it: annotations of pods, and of namespaces for the
pods created in them."""

from typing import Final

ROLE: Final = "gantry.io/role"
"""The Mesos role whose offers a pod takes."""

EXECUTOR: Final = "gantry.io/executor"
DEDICATED: Final = "dedicated"
SHARED: Final = "shared"
