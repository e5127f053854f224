"""The one way to a ZooKeeper session: its address, its access, and kazoo's client seen from an event loop."""
