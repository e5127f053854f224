"""The node API of an executor: what the scheduler's API proxies to it."""
