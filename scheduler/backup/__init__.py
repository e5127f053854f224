"""Backup and restore: the whole state as one file, and back into an empty store of either kind.

    gantry backup ── a snapshot of the store, as it is kept ──▶ file ── checked first ──▶ gantry restore

Objects travel in the bytes in which the store keeps them: what is encrypted stays encrypted, and no key is needed.
"""
