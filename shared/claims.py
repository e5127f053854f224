"""Words about claims and volumes that scheduler, API and executor share.

The labels are on the reservation of a claim's volume: scheduler and executor know it by them. They stay with the disk
whatever becomes of the scheduler, so they may never change their meaning.
"""

from typing import Final

FRAMEWORK_LABEL: Final = "gantry.io/framework"
"""The id of the framework that owns it."""
CLAIM_LABEL: Final = "gantry.io/claim"
"""namespace/name of the PersistentVolumeClaim."""
CLAIM_UID_LABEL: Final = "gantry.io/claim-uid"

STORAGE_CLASS: Final = "mesos-disk"
PROVISIONER: Final = "gantry.io/mesos-disk"
PROTECTION: Final = "kubernetes.io/pvc-protection"
"""The finalizer that keeps a claim as long as a pod uses it."""
