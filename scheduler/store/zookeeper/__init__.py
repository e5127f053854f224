"""The store on ZooKeeper: a log of commit batches, a table of objects written behind it, everything in memory."""

from scheduler.store.zookeeper.store import ZooKeeperStore

__all__ = ["ZooKeeperStore"]
