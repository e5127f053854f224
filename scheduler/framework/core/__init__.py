"""The pure core of the framework: events in, effects out. No I/O, no clock, no randomness, no logging."""
