"""The node side: a Mesos executor that turns a pod into running apps (stage0, stage1, stage2)."""
