"""stage1: turns a prepared pod directory into isolated, limited, killable processes.

A helper process (`python -m executor.stage1`) of its own, because it forks, holds privileges and must not
drag an event loop or a model library along: stdlib and ctypes only. It meets stage0 through files, a socket
and inherited file descriptors (docs/stage1-interface.md), never through imports.
"""
