"""What both halves speak: models, the Mesos protocol, security primitives. No logic of either side."""
