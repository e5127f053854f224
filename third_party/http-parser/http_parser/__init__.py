"""The part of http-parser's interface that pymesos uses, on httptools.

Why: http-parser 0.9.0 no longer compiles on CPython 3.11 and later, and pymesos requires it by name. This
distribution has its name and import path, so that `pip install pymesos` works and its stock drivers run.
Not a general replacement: responses only, and none of its readers, streams and WSGI helpers.
"""

version_info = (0, 9, 1)
__version__ = ".".join(map(str, version_info))

__all__ = ["__version__", "version_info"]
