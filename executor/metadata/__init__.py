"""appc's metadata service (spec 0.8.11, ace.md): what a pod may ask about itself, and a signature that proves who asks.

facts ─▶ answers (HTTP) ─▶ doors (listening sockets) ─▶ `service`: in the executor's pods
                                                     └▶ `registered`: rkt's daemon, with `registry` for `gantry rkt run`
"""
