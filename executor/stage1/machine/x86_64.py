"""The interpreter of lists (see `assemble`) for x86_64: as a program, and as a function in a process of ours.

One group of digits is one instruction. r13: the list, rbx: the record, r12: its flags; the rest is as in syscall(2).
"""

from typing import Final

MACHINE: Final = 62  # EM_X86_64
# arch/x86/entry/syscalls/syscall_64.tbl
_NAMES: Final = (
    "read=0 write=1 close=3 fstat=5 lseek=8 rt_sigaction=13 rt_sigprocmask=14 ioctl=16 pread64=17 "
    "pwrite64=18 madvise=28 shmget=29 shmctl=31 dup2=33 getpid=39 socket=41 sendmsg=46 clone=56 "
    "execve=59 wait4=61 uname=63 semget=64 semctl=66 msgget=68 msgctl=71 fcntl=72 fchdir=81 umask=95 "
    "setsid=112 setgroups=116 setresuid=117 setresgid=119 setfsuid=122 setfsgid=123 capset=126 "
    "rt_sigsuspend=130 statfs=137 fstatfs=138 prctl=157 chroot=161 mount=165 umount2=166 sethostname=170 "
    "getdents64=217 exit_group=231 keyctl=250 openat=257 mkdirat=258 mknodat=259 newfstatat=262 "
    "unlinkat=263 symlinkat=266 readlinkat=267 unshare=272 dup3=292 prlimit64=302 setns=308 seccomp=317 "
    "execveat=322"
)
NUMBERS: Final = {name: int(number) for name, number in (pair.split("=") for pair in _NAMES.split())}

# Reads the list from descriptor 3, or ends; then the loop. A call that fails is said to descriptor 4.
PROGRAM: Final = bytes.fromhex(
    "bf03000000 be00000020 ba00ff3f00 31c0 0f05 41bd00000020 4489eb 4885c0 7f0c "
    # bye:
    "bf01000000 b8e7000000 0f05 "
    # loop:
    "8b03 448b6304 488b7b08 41f6c401 7402 8b3f 488b7310 41f6c402 7402 8b36 488b5318 41f6c404 7402 "
    "8b12 4c8b5320 41f6c408 7403 458b12 4c8b4328 4c8b4b30 83f8ff 747f 0f05 483d01f0ffff 7328 8b4b38 "
    "85c9 7405 4989440d00 41f7c400800000 7405 4885c0 7455 "
    # next:
    "0fb74b3c "
    # go:
    "c1e106 498d5c0d00 eb8a "
    # err:
    "f7d8 41c1ec10 4181fcffff0000 7438 4139c4 7433 89d9 4429e9 c1e906 41898d00ff3f00 41898504ff3f00 "
    "498db500ff3f00 bf04000000 ba08000000 b801000000 0f05 e937ffffff "
    # jump:
    "0fb74b3e eba9 "
    # done:
    "e92cffffff"
)

# long function(list): 0, or the negative errno of the call that failed.
FUNCTION: Final = bytes.fromhex(
    "53 4154 4155 4989fd 4889fb "
    # loop:
    "8b03 448b6304 488b7b08 41f6c401 7402 8b3f 488b7310 41f6c402 7402 8b36 488b5318 41f6c404 7402 "
    "8b12 4c8b5320 41f6c408 7403 458b12 4c8b4328 4c8b4b30 83f8ff 7451 0f05 483d01f0ffff 7328 8b4b38 "
    "85c9 7405 4989440d00 41f7c400800000 7405 4885c0 7427 "
    # next:
    "0fb74b3c "
    # go:
    "c1e106 498d5c0d00 eb8a "
    # err:
    "f7d8 41c1ec10 4181fcffff0000 740a 4139c4 7405 48f7d8 eb08 "
    # jump:
    "0fb74b3e ebd7 "
    # done:
    "31c0 "
    # out:
    "415d 415c 5b c3"
)
