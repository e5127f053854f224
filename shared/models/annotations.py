"""What users may ask of Gantry where Kubernetes has no field for it: annotations of pods, and of namespaces (and
RuntimeClasses) for the pods created in them."""

from typing import Final

ROLE: Final = "gantry.io/role"
"""The Mesos role whose offers a pod takes."""

EXECUTOR: Final = "gantry.io/executor"
DEDICATED: Final = "dedicated"
SHARED: Final = "shared"
"""Also of RuntimeClasses, for the pods of the class."""

STAGE1_NAME: Final = "rkt.alpha.kubernetes.io/stage1-name-override"
"""How rktnetes (kubelet with rkt) let a pod choose its stage1."""
STAGE1_IMAGES: Final = {
    "coreos.com/rkt/stage1-coreos": "linux",
    "coreos.com/rkt/stage1-fly": "fly",
    "coreos.com/rkt/stage1-kvm": "kvm",
}
"""rkt's stage1 images, and the RuntimeClass of ours that does what they do."""

REVOCABLE: Final = "gantry.io/revocable"
"""`true`: a pod of QoS class BestEffort may run on resources that Mesos may take back at any moment."""

INGRESS_BANDWIDTH: Final = "kubernetes.io/ingress-bandwidth"
EGRESS_BANDWIDTH: Final = "kubernetes.io/egress-bandwidth"
"""Kubernetes' own, of its bandwidth plug-in: bits per second."""

APPARMOR: Final = "container.apparmor.security.beta.kubernetes.io/"
"""Kubernetes' own, with the name of a container behind: its AppArmor profile, before there was a field."""

PLACEMENT: Final = "gantry.io/placement"
"""Whether a pod's node is filled up before others (binpack), or the emptiest is taken (spread)."""
STRATEGIES: Final = ("binpack", "spread")

ON_RETURN: Final = "gantry.io/on-return"
KEEP_NEWEST: Final = "keep-newest"
KEEP_OLDEST: Final = "keep-oldest"
"""Which of two stays when a task comes back that was replaced; the newest if nothing is said."""

ON_MAINTENANCE: Final = "gantry.io/on-maintenance"
START_FIRST: Final = "start-first"
STOP_FIRST: Final = "stop-first"
STAY: Final = "stay"
"""What becomes of a pod before its node goes into maintenance."""

CHOICES: Final = {
    PLACEMENT: STRATEGIES,
    ON_RETURN: (KEEP_NEWEST, KEEP_OLDEST),
    ON_MAINTENANCE: (START_FIRST, STOP_FIRST, STAY),
}
"""Annotations of pods that take one of a few words."""
