"""The fault harness: see ../README.md. `python -m harness`, with its parent directory on the path."""
