"""Stage1 images that others made, by rkt's contract: any ACI with its entrypoints runs a pod as our own flavors do.

Section "Other stage1 images" of docs/stage1-interface.md. `interface` reads what an image offers and puts arguments
together, `manifest` makes the pod's manifest one that knows nothing of us, `holder` is the process that has the
pod's mounts and starts the entrypoints, `sandbox` is the pod to the executor (`immutable`, `mutable`), `console` parts
what it says, `disposal` collects what a pod has left, `stages` knows which images the node's administrator allows.
"""
