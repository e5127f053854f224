"""The one door to pymesos: its drivers (calls, callbacks, detector) without the side effects of importing it.

pymesos installs a SIGINT handler and a logging handler of its own when it is imported; both are undone here.
Import it from the main thread, for Python lets no other one set signal handlers.
"""

import logging
import signal
import threading

if threading.current_thread() is not threading.main_thread():
    raise ImportError("pymesos sets a signal handler when imported: import shared.mesos from the main thread")

_sigint = signal.getsignal(signal.SIGINT)

from pymesos import Executor, MesosExecutorDriver, MesosSchedulerDriver, Scheduler  # noqa: E402
from pymesos.process import Process  # noqa: E402

if _sigint is not None:  # None: set by something other than Python
    signal.signal(signal.SIGINT, _sigint)

_log = logging.getLogger("pymesos")
_log.handlers.clear()
_log.setLevel(logging.NOTSET)

__all__ = ["Executor", "MesosExecutorDriver", "MesosSchedulerDriver", "Process", "Scheduler"]
