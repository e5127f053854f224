"""Secrets that lie in files: read on one line, refused with the file's name, never shown."""

import logging
import stat
from pathlib import Path

logger = logging.getLogger(__name__)


class SecretError(OSError, ValueError):
    """One line that names the file and what is wrong with it, and never quotes it.

    A ValueError where settings are read, an OSError where credentials cannot be had now.
    """


def read_text(path: Path, what: str) -> str:
    """The file's text; `what` it is goes into the error. Warns when everybody may read it."""
    try:
        text = path.read_text(encoding="utf-8")
        mode = path.stat().st_mode
    except UnicodeDecodeError as error:
        raise SecretError(f"{what} '{path}': not text") from error
    except OSError as error:
        raise SecretError(f"{what} '{path}': {error.strerror}") from error
    if mode & stat.S_IROTH:
        logger.warning("%s '%s' can be read by everybody on this machine: chmod 600", what, path)
    return text


def read_line(path: Path, what: str) -> str:
    """The one line the file consists of, without its newline."""
    line = text_line(read_text(path, what))
    if line is None:
        raise SecretError(f"{what} '{path}': expecting one line of printable ASCII or UTF-8")
    return line


def text_line(text: str) -> str | None:
    """`text` without the newline at its end; None when it is empty or more than one line: it goes into an HTTP
    header, where a line break would begin another."""
    line = text.removesuffix("\n").removesuffix("\r")
    return line if line and line.isprintable() else None
