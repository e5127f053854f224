"""The pure core of the framework: events in, effects out. No I/O, no clock, no randomness, no logging.

    events ─▶ step ─┬▶ desired, evictions                             what users want
                    ├▶ tasks (lifecycle, verdict), reconcile          what runs, and what becomes of it
                    ├▶ nodes, executors, maintenance, volumes         what there is to run on
                    └▶ offers ─▶ placement*                           which pods go where
              each with a `frame`, which collects the effects; `effects` has their one order

`state` holds all that is known, made of `entities` (and `claims`); `policy` is what is set, `vectors` how amounts are
counted. `pods` and `status` read and write v1 Pods.
"""
