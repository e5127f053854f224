"""Flavor kvm: the pod in a virtual machine of its own (QEMU's microvm), the apps in it by stage1's own code.

    host:   KvmSandbox ─▶ the launcher ─▶ a pod of flavor linux with two apps: qemu and virtiofsd
    guest:  init ─▶ the launcher (executor/stage1, unchanged) ─▶ the apps

`guest` runs in the machine and imports stage1 alone. docs/kvm.md tells users about it.
"""
