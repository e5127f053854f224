"""Pods on this machine: what is decided (`core`, pure), and what carries it out (`runner`, `pods`).

    pods ─▶ runner ─┬▶ core        what to do next; `pending` has what is being waited for
                    ├▶ preparing   images (holds), users, and the apps' part of that:
                    ├▶ manifest    what stage1 is told: env, isolators, seccomp, labels, sysctls, bandwidth, gpus
                    ├▶ ground      the node's side: enforcing, hostpath, ownership, apparmor
                    ├▶ files       what volumes get from the API: objects, projections, atomic
                    ├▶ poddir      the pod's directory; `storage` looks how much is in it
                    ├▶ launcher    stage1's process, which `keeper` keeps there
                    └▶ instances   of apps: logs, consoles; `handlers` for probes and hooks (grpchealth, netns)

`ports` says what the runner needs of others, `rules` what the node's administrator lets pods have, `supplies` what came
with a launch. Not here: images (stage0), other ways to run a pod (`executor.contract`, `executor.kvm`), the node API.
"""
