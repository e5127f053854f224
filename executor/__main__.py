"""`python -m executor`: the same as `gantry executor`."""

import sys

from executor.app import main

sys.exit(main(sys.argv[1:]))
