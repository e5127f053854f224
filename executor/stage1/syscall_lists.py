"""Which system calls an app may make: our default, and the sets that appc isolators may name with `@`.

The default lets through what programs need and keeps out what administers a machine, reaches other processes'
memory without ptrace's checks, or is a known way around a container (rkt's seccomp guide; seccomp(7); docker's
"Seccomp security profiles" page lists the same reasons one by one). Calls of an administrator follow the capability.
"""

from typing import Final

_FILES: Final = """
access chdir chmod chown chown32 close close_range copy_file_range creat dup dup2 dup3 faccessat faccessat2 fadvise64
fadvise64_64 fallocate fanotify_mark fchdir fchmod fchmodat fchmodat2 fchown fchown32 fchownat fcntl fcntl64 fdatasync
fgetxattr flistxattr flock fremovexattr fsetxattr fstat fstat64 fstatat64 fstatfs fstatfs64 fsync ftruncate ftruncate64
futimesat getcwd getdents getdents64 getxattr inotify_add_watch inotify_init inotify_init1 inotify_rm_watch ioctl
lchown lchown32 lgetxattr link linkat listxattr llistxattr _llseek lremovexattr lseek lsetxattr lstat lstat64 mkdir
mkdirat mknod mknodat newfstatat _newselect open openat openat2 pipe pipe2 pread64 preadv preadv2 pwrite64 pwritev
pwritev2 read readahead readlink readlinkat readv removexattr rename renameat renameat2 rmdir sendfile sendfile64
setxattr splice stat stat64 statfs statfs64 statx symlink symlinkat sync sync_file_range syncfs tee truncate
truncate64 umask unlink unlinkat utime utimensat utimensat_time64 utimes vmsplice write writev
landlock_add_rule landlock_create_ruleset landlock_restrict_self cachestat
"""
_MEMORY: Final = """
brk get_mempolicy madvise map_shadow_stack membarrier memfd_create memfd_secret mincore mlock mlock2 mlockall mmap
mmap2 modify_ldt mprotect mremap mseal msync munlock munlockall munmap pkey_alloc pkey_free pkey_mprotect
process_mrelease remap_file_pages
"""
_PROCESSES: Final = """
alarm arch_prctl capget capset execve execveat exit exit_group fork futex futex_requeue futex_time64 futex_wait
futex_waitv futex_wake get_robust_list get_thread_area getcpu getegid getegid32 geteuid geteuid32 getgid getgid32
getgroups getgroups32 getitimer getpgid getpgrp getpid getppid getpriority getresgid getresgid32 getresuid
getresuid32 getrlimit getrusage getsid gettid getuid getuid32 ioprio_get ioprio_set kill nanosleep pause
pidfd_open pidfd_send_signal prctl prlimit64 restart_syscall rseq rt_sigaction rt_sigpending rt_sigprocmask
rt_sigqueueinfo rt_sigreturn rt_sigsuspend rt_sigtimedwait rt_sigtimedwait_time64 rt_tgsigqueueinfo
sched_get_priority_max sched_get_priority_min sched_getaffinity sched_getattr sched_getparam sched_getscheduler
sched_rr_get_interval sched_rr_get_interval_time64 sched_setaffinity sched_setattr sched_setparam
sched_setscheduler sched_yield seccomp set_robust_list set_thread_area set_tid_address setfsgid setfsgid32
setfsuid setfsuid32 setgid setgid32 setgroups setgroups32 setitimer setpgid setpriority setregid setregid32
setresgid setresgid32 setresuid setresuid32 setreuid setreuid32 setrlimit setsid setuid setuid32 sigaltstack
signalfd signalfd4 sigprocmask sigreturn sysinfo tgkill time timer_create timer_delete timer_getoverrun
timer_gettime timer_gettime64 timer_settime timer_settime64 timerfd_create timerfd_gettime timerfd_gettime64
timerfd_settime timerfd_settime64 times tkill ugetrlimit uname vfork wait4 waitid waitpid
clock_getres clock_getres_time64 clock_gettime clock_gettime64 clock_nanosleep clock_nanosleep_time64
clock_adjtime clock_adjtime64 adjtimex gettimeofday getrandom
"""
_MESSAGES: Final = """
accept accept4 bind connect epoll_create epoll_create1 epoll_ctl epoll_ctl_old epoll_pwait epoll_pwait2 epoll_wait
epoll_wait_old eventfd eventfd2 getpeername getsockname getsockopt io_cancel io_destroy io_getevents io_pgetevents
io_pgetevents_time64 io_setup io_submit ipc listen mq_getsetattr mq_notify mq_open mq_timedreceive
mq_timedreceive_time64 mq_timedsend mq_timedsend_time64 mq_unlink msgctl msgget msgrcv msgsnd poll ppoll ppoll_time64
process_vm_readv process_vm_writev ptrace pselect6 pselect6_time64 recv recvfrom recvmmsg recvmmsg_time64 recvmsg
select semctl semget semop semtimedop semtimedop_time64 send sendmmsg sendmsg sendto setsockopt shmat shmctl shmdt
shmget shutdown socketcall socketpair
"""
DEFAULT: Final = tuple((_FILES + _MEMORY + _PROCESSES + _MESSAGES).split())

_ADMINISTRATION: Final = """
bpf clone clone3 fanotify_init fsconfig fsmount fsopen fspick lookup_dcookie mount mount_setattr move_mount
name_to_handle_at open_tree perf_event_open quotactl quotactl_fd setdomainname sethostname setns syslog umount
umount2 unshare
"""
BY_CAPABILITY: Final = {
    "CAP_DAC_READ_SEARCH": ("open_by_handle_at", "name_to_handle_at"),
    "CAP_SYS_ADMIN": tuple(_ADMINISTRATION.split()),
    "CAP_SYS_BOOT": ("reboot",),
    "CAP_SYS_CHROOT": ("chroot",),
    "CAP_SYS_MODULE": ("delete_module", "init_module", "finit_module"),
    "CAP_SYS_PACCT": ("acct",),
    "CAP_SYS_PTRACE": ("kcmp", "pidfd_getfd", "process_madvise"),
    "CAP_SYS_RAWIO": ("iopl", "ioperm"),
    "CAP_SYS_TIME": ("settimeofday", "stime", "clock_settime", "clock_settime64"),
    "CAP_SYS_TTY_CONFIG": ("vhangup",),
    "CAP_SYS_NICE": ("mbind", "set_mempolicy", "set_mempolicy_home_node", "move_pages", "migrate_pages"),
    "CAP_SYSLOG": ("syslog",),
    "CAP_BPF": ("bpf",),
    "CAP_PERFMON": ("perf_event_open",),
}

# The sets of appc's and rkt's wildcards that deny (rkt Documentation/seccomp-guide.md; systemd.exec(5)).
_SYSTEMD: Final = {
    "clock": "adjtimex clock_adjtime clock_settime settimeofday",
    "mount": """
        chroot fsconfig fsmount fsopen fspick mount mount_setattr move_mount open_tree pivot_root umount umount2
    """,
    "network-io": """
        accept accept4 bind connect getpeername getsockname getsockopt listen recv recvfrom recvmmsg recvmsg send
        sendmmsg sendmsg sendto setsockopt shutdown socket socketcall socketpair
    """,
    "obsolete": """
        _sysctl afs_syscall bdflush break create_module ftime get_kernel_syms getpmsg gtty idle lock mpx prof profil
        putpmsg query_module security sgetmask ssetmask stime stty sysfs tuxcall ulimit uselib ustat vserver
    """,
    "privileged": """
        acct bpf capset chown chroot fanotify_init fchown fchownat kexec_file_load kexec_load lchown
        open_by_handle_at pivot_root quotactl reboot setdomainname setfsuid setgroups sethostname setresuid setreuid
        setuid swapoff swapon vhangup
    """,
    "process": "arch_prctl clone clone3 execveat fork kill prctl setns tgkill tkill unshare vfork",
    "raw-io": "ioperm iopl pciconfig_iobase pciconfig_read pciconfig_write s390_pci_mmio_read s390_pci_mmio_write",
}
_BLACKLIST: Final = """
    _sysctl acct add_key bpf clock_adjtime clock_settime create_module delete_module fanotify_init finit_module
    get_kernel_syms init_module io_uring_enter io_uring_register io_uring_setup ioperm iopl kcmp kexec_file_load
    kexec_load keyctl lookup_dcookie mbind mount move_pages name_to_handle_at nfsservctl open_by_handle_at
    perf_event_open personality pivot_root process_vm_readv process_vm_writev ptrace query_module quotactl reboot
    request_key set_mempolicy setns settimeofday stime swapoff swapon sysfs umount umount2 unshare uselib
    userfaultfd ustat vm86 vm86old
"""
WILDCARDS: Final = {
    "@appc.io/empty": (),
    "@rkt/default-blacklist": tuple(_BLACKLIST.split()),
    "@docker/default-blacklist": tuple(_BLACKLIST.split()),
    **{f"@systemd/{name}": tuple(text.split()) for name, text in _SYSTEMD.items()},
}
"""Names of sets, without those that stand for everything or for the default allow-list (see `seccomp`)."""
