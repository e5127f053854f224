"""The interpreter of lists (see `assemble`) for aarch64: as a program, and as a function in a process of ours.

One group of digits is one instruction. x19: the list, x20: the record, w21: its flags; the rest is as in syscall(2).
"""

from typing import Final

MACHINE: Final = 183  # EM_AARCH64
# include/uapi/asm-generic/unistd.h; there is no dup2, but dup3 with no flags is the same
_NAMES: Final = (
    "dup2=24 dup3=24 fcntl=25 ioctl=29 mknodat=33 mkdirat=34 unlinkat=35 symlinkat=36 umount2=39 "
    "mount=40 statfs=43 fstatfs=44 fchdir=50 chroot=51 openat=56 close=57 getdents64=61 lseek=62 read=63 "
    "write=64 pread64=67 pwrite64=68 readlinkat=78 newfstatat=79 fstat=80 capset=91 exit_group=94 "
    "unshare=97 rt_sigsuspend=133 rt_sigaction=134 rt_sigprocmask=135 setresuid=147 setresgid=149 "
    "setfsuid=151 setfsgid=152 setsid=157 setgroups=159 uname=160 sethostname=161 umask=166 prctl=167 "
    "getpid=172 msgget=186 msgctl=187 semget=190 semctl=191 shmget=194 shmctl=195 socket=198 sendmsg=211 "
    "keyctl=219 clone=220 execve=221 madvise=233 wait4=260 prlimit64=261 setns=268 seccomp=277 "
    "execveat=281"
)
NUMBERS: Final = {name: int(number) for name, number in (pair.split("=") for pair in _NAMES.split())}

# Reads the list from descriptor 3, or ends; then the loop. A call that fails is said to descriptor 4.
PROGRAM: Final = bytes.fromhex(
    "600080d2 0100a4d2 02e09fd2 e207a0f2 e80780d2 010000d4 1300a4d2 f40313aa 1f0000f1 8c000054 "
    # bye:
    "200080d2 c80b80d2 010000d4 "
    # loop:
    "880240b9 950640b9 800640f9 55000036 000040b9 810a40f9 55000836 210040b9 820e40f9 55001036 "
    "420040b9 831240f9 55001836 630040b9 841640f9 851a40f9 1f050031 00040054 010000d4 1ffc3fb1 "
    "22010054 893a40b9 49000034 606a29f8 55007836 c00200b4 "
    # next:
    "897a4079 "
    # go:
    "741a098b e4ffff17 "
    # err:
    "e003004b b57e1053 e9ff9f52 bf02096b c0010054 bf02006b 80010054 890213cb 29fd46d3 01e09fd2 "
    "e107a0f2 2100138b 29000029 800080d2 020180d2 080880d2 010000d4 cfffff17 "
    # jump:
    "897e4079 ebffff17 "
    # done:
    "ccffff17"
)

# long function(list): 0, or the negative errno of the call that failed.
FUNCTION: Final = bytes.fromhex(
    "f353bea9 f50b00f9 f30300aa f40300aa "
    # loop:
    "880240b9 950640b9 800640f9 55000036 000040b9 810a40f9 55000836 210040b9 820e40f9 55001036 "
    "420040b9 831240f9 55001836 630040b9 841640f9 851a40f9 1f050031 e0020054 010000d4 1ffc3fb1 "
    "22010054 893a40b9 49000034 606a29f8 55007836 a00100b4 "
    # next:
    "897a4079 "
    # go:
    "741a098b e4ffff17 "
    # err:
    "e003004b b57e1053 e9ff9f52 bf02096b a0000054 bf02006b 60000054 e00300cb 04000014 "
    # jump:
    "897e4079 f4ffff17 "
    # done:
    "000080d2 "
    # out:
    "f50b40f9 f353c2a8 c0035fd6"
)
