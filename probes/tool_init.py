"""Runs one tool and sees to it that nothing of it is left behind. Executed as a script, never imported.

    python -I -S -B tool_init.py MODE LEASH_FD STATUS_FD PROC NICE OOM_SCORE_ADJ MEMORY_BYTES -- ARGV...

MODE `namespace`: this process is PID 1 of a PID namespace of its own; when it exits the kernel kills every
process in it, one that called setsid() included. MODE `group` (not root): it is a child subreaper, and kills
all its descendants itself.

LEASH_FD is the read end of a pipe whose write end only the agent holds. End of file on it, which a SIGKILL
of the agent causes too, means "kill everything now"; a byte `T` means "send the tool SIGTERM".
Where standard input is a terminal, the tool becomes the session that this terminal controls.

STATUS_FD takes one line: `exit WAITSTATUS` or `exec ERRNO`. The exact wait status matters: smartctl uses all
eight bits of its exit code, so that a shell's 128+signal would be ambiguous.

Standard library only, and little of it: this start-up is paid for each tool.
"""

import os
import select
import signal
import sys
import time

PR_SET_PDEATHSIG = 1
PR_SET_CHILD_SUBREAPER = 36


def main(argv: list[str]) -> int:
    mode, leash, status, proc, nice, oom, memory = argv[:7]
    leash_fd, status_fd = int(leash), int(status)
    for fd in (leash_fd, status_fd):
        os.set_inheritable(fd, False)
    prctl = None
    if mode == "group":
        prctl = _prctl()  # type: ignore[no-untyped-call]
        prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    wake_read, wake_write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    signal.set_wakeup_fd(wake_write, warn_on_full_buffer=False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)  # only the leash ends this process
    child = os.fork()
    if child == 0:
        _become_tool(argv[8:], status_fd, proc, int(nice), int(oom), int(memory), prctl)
    _let_go_of_standard_streams()
    wait_status = _watch(child, leash_fd, wake_read)
    if mode == "group":
        _kill_descendants(proc)
    if wait_status is not None:
        os.write(status_fd, b"exit %d\n" % wait_status)
    return 0


def _prctl():  # type: ignore[no-untyped-def]  # annotations would cost the typing import
    import ctypes  # five milliseconds that only unprivileged runs pay

    return ctypes.CDLL(None).prctl


def _become_tool(argv, status_fd, proc, nice, oom, memory, prctl) -> None:  # type: ignore[no-untyped-def]
    """In the child: set the limits, undo Python's signal dispositions, and exec."""
    try:
        os.setsid()
        if os.isatty(0):
            _be_controlled()  # type: ignore[no-untyped-call]
        if prctl is not None:
            prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        signal.set_wakeup_fd(-1)
        for number in (signal.SIGCHLD, signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGPIPE, signal.SIGXFSZ):
            signal.signal(number, signal.SIG_DFL)
        if nice:
            os.nice(nice)
        if oom:
            with open(f"{proc}/self/oom_score_adj", "w") as handle:  # noqa: PTH123
                handle.write(str(oom))
        if memory:
            import resource

            resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
        os.execve(argv[0], argv, os.environ)  # noqa: S606
    except OSError as error:
        os.write(status_fd, b"exec %d\n" % (error.errno or 0))
    finally:
        os._exit(127)


def _be_controlled():  # type: ignore[no-untyped-def]
    import fcntl
    import termios

    fcntl.ioctl(0, termios.TIOCSCTTY, 0)


def _let_go_of_standard_streams() -> None:
    """The reader at the other end must see end-of-file when the tool is done, not when this process is."""
    null = os.open(os.devnull, os.O_RDWR)
    for fd in (0, 1, 2):
        os.dup2(null, fd)


def _watch(child: int, leash_fd: int, wake_fd: int) -> "int | None":
    """Wait for the tool or the leash; the tool's wait status, or None when the leash ended it."""
    while True:
        try:
            while True:
                pid, status = os.waitpid(-1, os.WNOHANG)  # orphans are re-parented here and reaped too
                if pid == child:
                    return status
                if pid == 0:
                    break
        except ChildProcessError:
            return None
        ready, _, _ = select.select([leash_fd, wake_fd], [], [])
        if wake_fd in ready:
            os.read(wake_fd, 4096)
        if leash_fd in ready:
            word = os.read(leash_fd, 64)
            if not word:
                return None
            os.kill(child, signal.SIGTERM)


def _kill_descendants(proc: str) -> None:
    """SIGKILL every descendant until none is left. New ones can appear while we look, hence the loop."""
    me = os.getpid()
    while True:
        alive = _descendants(proc, me)
        if not alive:
            return
        for pid in alive:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        try:
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        except ChildProcessError:
            pass
        time.sleep(0.005)


def _descendants(proc: str, root: int) -> "list[int]":
    children: dict[int, list[int]] = {}
    for name in os.listdir(proc):  # noqa: PTH208
        if not name.isdigit():
            continue
        try:
            with open(f"{proc}/{name}/stat", "rb") as handle:  # noqa: PTH123
                fields = handle.read().rpartition(b")")[2].split()
        except OSError:
            continue
        children.setdefault(int(fields[1]), []).append(int(name))
    found: list[int] = []
    todo = [root]
    while todo:
        below = children.get(todo.pop(), [])
        found += below
        todo += below
    return found


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
