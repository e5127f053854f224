"""appc's metadata service (spec 0.8.11, ace.md): what a pod may ask about itself, and a signature that proves who asks.

facts, keys ─▶ answers ─▶ http ─▶ doors (listening sockets) ─▶ `service`: for the executor's pods
                                                            └▶ `registry`: rkt's daemon, `client`: who registers
"""
