"""System calls by number, for what Python has no name for (x86_64)."""

import ctypes
import os

LIBC = ctypes.CDLL(None, use_errno=True)
NR = {
    "clone": 56, "shmget": 29, "shmat": 30, "shmctl": 31, "semget": 64, "semop": 65, "semctl": 66, "msgget": 68,
    "msgsnd": 69, "msgctl": 71, "mq_open": 240, "mq_unlink": 241, "mq_timedsend": 242, "sethostname": 170,
    "setdomainname": 171, "add_key": 248, "keyctl": 250, "prlimit64": 302, "ioprio_set": 251, "ioprio_get": 252,
    "inotify_init1": 294, "inotify_add_watch": 254,
    "io_setup": 206, "timer_create": 222, "listmount": 458, "rt_sigqueueinfo": 129,
}  # fmt: skip
CREATE, PRIVATE, REMOVE = 0o1000, 0, 0
SHARED = ("/dev/shm", "/dev/mqueue")


def call(name, *arguments):
    made = [ctypes.c_long(a) if isinstance(a, int) else a for a in arguments]
    result = LIBC.syscall(ctypes.c_long(NR[name]), *made)
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{name}: {os.strerror(number)}")
    return result
