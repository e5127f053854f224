"""The shell command by which an agent runs the executor of a bundle that it has fetched into the sandbox."""

from shared.bundle.archive import Bundle

_COMMAND = (
    "f={name}; "
    "echo '{digest}  {name}' | sha256sum -c - >/dev/null 2>&1 || "
    '{{ echo "gantry: $f is not the archive that the scheduler offered (its SHA-256 differs)" >&2; exit 1; }}; '
    'tar -xzf $f && rm -f $f && exec "$PWD/gantry/bin/gantry-executor"'
)


def executor_command(bundle: Bundle, options: str) -> str:
    """Nothing of the archive is unpacked, let alone run, before its digest is what is said here.

    `options`: of the executor, as a shell would read them.
    """
    return " ".join(filter(None, [_COMMAND.format(name=bundle.name, digest=bundle.digest), options]))
