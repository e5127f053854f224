"""Who may have made an image: policy, trusted keys, signatures, and what was found, kept as facts.

`Gate` is the way in: the image store asks it before an image comes in and each time one is run.
"""

from executor.stage0.trust.gate import Gate
from executor.stage0.trust.keystore import DEFAULT_DIRECTORIES, Keystore
from executor.stage0.trust.policy import Fact, Policy, Requirement

__all__ = ["DEFAULT_DIRECTORIES", "Fact", "Gate", "Keystore", "Policy", "Requirement"]
