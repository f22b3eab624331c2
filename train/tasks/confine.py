"""The inside of the sandbox: a script of the standard library alone that runs programs of models, each in a child.

    supervisor  reads jobs from stdin, leaves for namespaces of its own (user, network, process ids, mounts) and forks
      init      waits, times, compares outputs, writes one JSON line a job to stdout; no child can signal it
        child   one program: limits, Landlock (writes only below its folder), seccomp, an audit hook, an empty environment

What the kernel does not offer is left out, and the first line of the output says which layers hold. A program has
passed only if the child hands back the word that init drew for it, so leaving early is no pass. This contains accidents
and cheap tricks; it is no jail for a determined attacker. Cost: one start of Python for all jobs, then 3 to 5 ms a program.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import json
import os
import platform
import re
import resource
import secrets
import select
import shutil
import signal
import struct
import sys
import tempfile
import time
import types
from typing import Any

VERDICT = 3  # the descriptor a child answers on
SAID = re.compile(r"failed|memory|output|exited(?: [01])?|error \w{1,60}")  # what it may say besides the word
NAMESPACES = 0x10000000 | 0x40000000 | 0x20000000 | 0x08000000 | 0x00020000  # user, net, pid, ipc, mount
WRITES = sum(1 << bit for bit in range(4, 13)) | 1 << 1  # Landlock: write, remove, make
SPACE = "size=64m,nr_inodes=1024"
EPERM, ALLOW, KILL = 0x00050000 | errno.EPERM, 0x7FFF0000, 0x80000000
MACHINES = {"x86_64": (0, 0xC000003E), "aarch64": (1, 0xC00000B7)}
# The system calls that no program needs, with their numbers on x86-64 and AArch64; -1 where there is none.
DENIED = """
    socket 41 198, socketpair 53 199, fork 57 -1, vfork 58 -1, execve 59 221, execveat 322 281, tkill 200 130,
    rt_sigqueueinfo 129 138, rt_tgsigqueueinfo 297 240, pidfd_send_signal 424 424, pidfd_open 434 434,
    ptrace 101 117, setsid 112 157, process_vm_readv 310 270, process_vm_writev 311 271, setpgid 109 154,
    mount 165 40, umount2 166 39, pivot_root 155 41, chroot 161 51, unshare 272 97, setns 308 268, bpf 321 280,
    perf_event_open 298 241, userfaultfd 323 282, io_uring_setup 425 425, open_tree 428 428, move_mount 429 429,
    fsopen 430 430, setrlimit 160 164, shmget 29 194, msgget 68 186, semget 64 190, mq_open 240 180,
    memfd_create 319 279, chmod 90 -1, fchmod 91 52, fchmodat 268 53, chown 92 -1, fchown 93 55, lchown 94 -1,
    fchownat 260 54, fchmodat2 452 452, kcmp 312 272
"""
CLONE, CLONE3, PRLIMIT = (56, 220), (435, 435), (302, 261)
SIGNALS = ((62, 129), (234, 131))  # kill, tgkill: to itself alone
BLOCKED = ("socket.", "os.fork", "os.exec", "os.posix_spawn", "os.spawn", "os.system", "subprocess.", "pty.", "os.kill")
PATHS = (
    "os.remove",
    "os.rename",
    "os.mkdir",
    "os.rmdir",
    "os.link",
    "os.symlink",
    "os.truncate",
    "os.chmod",
    "os.chown",
)

libc = ctypes.CDLL(None, use_errno=True)


def leave() -> bool:
    """Enter new namespaces; False where the kernel does not let us. The next child is their init."""
    if not sys.platform.startswith("linux"):
        return False
    user, group = os.getuid(), os.getgid()
    if libc.unshare(NAMESPACES):
        return False
    for name, text in (("setgroups", "deny"), ("uid_map", f"0 {user} 1"), ("gid_map", f"0 {group} 1")):
        with contextlib.suppress(OSError), open(f"/proc/self/{name}", "w") as file:  # noqa: PTH123
            file.write(text)
    return True


def landlock(folder: str, *, dry: bool = False) -> bool:
    """Let this process write below `folder` and to /dev/null only; `dry` only asks whether the kernel can."""
    version = libc.syscall(444, None, 0, 1) if sys.platform.startswith("linux") else -1
    if version < 1 or dry:
        return bool(version >= 1)
    handled = WRITES | (1 << 13 if version >= 2 else 0) | (1 << 14 if version >= 3 else 0)
    rules = ctypes.create_string_buffer(struct.pack("=Q", handled))
    ruleset = libc.syscall(444, rules, ctypes.c_size_t(8), 0)
    if ruleset < 0:
        return False
    for path, allowed in ((folder, handled), (os.devnull, (1 << 1) | (handled & 1 << 14))):
        opened = os.open(path, os.O_PATH | os.O_CLOEXEC)  # type: ignore[attr-defined,unused-ignore]
        beneath = ctypes.create_string_buffer(struct.pack("=Qi", allowed, opened))
        if libc.syscall(445, ruleset, 1, beneath, 0):
            return False
        os.close(opened)
    libc.prctl(38, 1, 0, 0, 0)  # no new privileges
    done = bool(libc.syscall(446, ruleset, 0) == 0)
    os.close(ruleset)
    return done


def seccomp(*, dry: bool = False) -> bool:
    """Deny the system calls that no program needs; threads are allowed, processes are not."""
    if not sys.platform.startswith("linux") or platform.machine() not in MACHINES:
        return False
    if dry:
        return bool(libc.prctl(21, 0, 0, 0, 0) == 0)
    column, arch = MACHINES[platform.machine()]
    load, equal, at_least, bits, give = 0x20, 0x15, 0x35, 0x45, 0x06
    code = [(load, 0, 0, 4), (equal, 1, 0, arch), (give, 0, 0, KILL), (load, 0, 0, 0)]
    if not column:
        code += [(at_least, 0, 1, 0x40000000), (give, 0, 0, EPERM)]
    for number in (int(entry.split()[1 + column]) for entry in DENIED.split(",")):
        if number >= 0:
            code += [(equal, 0, 1, number), (give, 0, 0, EPERM)]
    code += [(equal, 0, 1, CLONE3[column]), (give, 0, 0, 0x00050000 | errno.ENOSYS)]
    code += [(equal, 0, 4, CLONE[column]), (load, 0, 0, 16), (bits, 0, 1, 0x00010000)]
    code += [(give, 0, 0, ALLOW), (give, 0, 0, EPERM)]
    for numbers in SIGNALS:
        code += [(equal, 0, 4, numbers[column]), (load, 0, 0, 16), (equal, 0, 1, os.getpid())]
        code += [(give, 0, 0, ALLOW), (give, 0, 0, EPERM)]
    code += [(equal, 0, 6, PRLIMIT[column]), (load, 0, 0, 32), (equal, 0, 3, 0), (load, 0, 0, 36), (equal, 0, 1, 0)]
    code += [(give, 0, 0, ALLOW), (give, 0, 0, EPERM), (give, 0, 0, ALLOW)]
    filters = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *line) for line in code))
    program = ctypes.create_string_buffer(struct.pack("HxxxxxxP", len(code), ctypes.addressof(filters)))
    libc.prctl(38, 1, 0, 0, 0)
    return bool(libc.prctl(22, 2, program, 0, 0) == 0)


def watch(folder: str, *, writes: bool) -> None:
    """An audit hook: no sockets, no processes, and (`writes`, where the kernel does not see to it) no writing outside."""

    def inside(path: Any) -> bool:
        if isinstance(path, int):
            return True
        whole = os.path.realpath(os.fsdecode(path))
        return whole == os.devnull or whole.startswith(folder + os.sep)

    def hook(event: str, given: tuple[Any, ...]) -> None:
        if event.startswith(BLOCKED) or event in ("sys.addaudithook", "resource.setrlimit", "resource.prlimit"):
            raise PermissionError(errno.EPERM, f"{event} is not allowed here")
        if not writes:
            return
        flags = given[2] if event == "open" else 0
        bad = isinstance(flags, int) and flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC)
        if (bad and given[0] is not None and not inside(given[0])) or (
            event in PATHS
            and not all(inside(path) for path in given[:2] if isinstance(path, (str, bytes, os.PathLike)))
        ):
            raise PermissionError(errno.EPERM, "writing outside the working folder is not allowed here")

    sys.addaudithook(hook)


def child(program: str, word: str, limits: dict[str, int], folder: str, layers: dict[str, bool]) -> None:
    """Everything between fork and the end of one program; never returns."""
    said = "exited"
    try:
        os.chdir(folder)
        os.closerange(VERDICT + 1, 4096)
        if sys.platform.startswith("linux"):
            libc.prctl(1, signal.SIGKILL, 0, 0, 0)  # die with init
        for kind, most in (
            (resource.RLIMIT_AS, limits["memory"]),
            (resource.RLIMIT_FSIZE, limits["file"]),
            (resource.RLIMIT_NOFILE, 64),
            (resource.RLIMIT_CORE, 0),
            *(() if layers["seccomp"] else ((resource.RLIMIT_NPROC, 0),)),
        ):
            with contextlib.suppress(ValueError, OSError):
                resource.setrlimit(kind, (most, most))
        resource.setrlimit(resource.RLIMIT_CPU, (limits["cpu"], limits["cpu"] + 1))
        os.environ.clear()
        held = not layers["landlock"] or landlock(folder)
        held = (not layers["seccomp"] or seccomp()) and held
        if not held:  # promised by the first line, so nothing runs without it
            os.write(VERDICT, b"error sandbox")
            os._exit(1)
        watch(folder, writes=not layers["landlock"])
        module = types.ModuleType("__main__")
        sys.modules["__main__"] = module
        sys.argv = ["program.py"]
        sys.stdin = open(0, encoding="utf-8", closefd=False)  # noqa: SIM115
        sys.stdout = open(1, "w", encoding="utf-8", errors="replace", closefd=False)  # noqa: SIM115
        exec(compile(program, "program.py", "exec"), module.__dict__)
        sys.stdout.flush()
        said = word
    except SystemExit as stop:
        with contextlib.suppress(BaseException):
            sys.stdout.flush()
        said = "exited 0" if stop.code in (None, 0) else "exited 1"
    except MemoryError:
        said = "memory"
    except OSError as problem:
        said = "output" if problem.errno in (errno.EFBIG, errno.ENOSPC) else f"error {type(problem).__name__}"
    except AssertionError:
        said = "failed"
    except BaseException as problem:
        said = f"error {type(problem).__name__}"
    with contextlib.suppress(BaseException):
        os.write(VERDICT, said.encode("ascii", "replace")[:80])
    os._exit(0)


def attempt(
    program: str, given: str | None, limits: dict[str, int], folder: str, layers: dict[str, bool]
) -> tuple[str, str]:
    """Run one program once: what became of it, and its output (only where an input was `given`)."""
    word = secrets.token_hex(16)
    ours, theirs = os.pipe()
    with tempfile.TemporaryFile(dir=folder) as source, tempfile.TemporaryFile(dir=folder) as target:
        source.write((given or "").encode())
        source.seek(0)
        pid = os.fork()
        if pid == 0:
            null = os.open(os.devnull, os.O_RDWR)
            os.dup2(null if given is None else source.fileno(), 0)
            os.dup2(null if given is None else target.fileno(), 1)
            os.dup2(null, 2)
            if theirs != VERDICT:
                os.dup2(theirs, VERDICT)
            child(program, word, limits, folder, layers)
        os.close(theirs)
        said = listen(ours, limits["wall"], len(word))
        slow = said is None
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
        _, status = os.waitpid(pid, 0)
        if layers["namespaces"]:
            with contextlib.suppress(ProcessLookupError):
                os.kill(-1, signal.SIGKILL)  # whatever it left behind; init itself is spared
        os.close(ours)
        target.seek(0)
        output = target.read(limits["file"]).decode("utf-8", "replace") if given is not None else ""
    if slow or (os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGXCPU):
        return "timeout", ""
    if said == word:
        return "passed", output
    if said:
        return said if SAID.fullmatch(said) else "error forged", output
    died = os.WIFSIGNALED(status) and os.WTERMSIG(status) != signal.SIGKILL
    return (
        "killed" if died else "exited 0" if os.WIFEXITED(status) and not os.WEXITSTATUS(status) else "exited"
    ), output


def listen(pipe: int, seconds: int, size: int) -> str | None:
    """What a child says before it closes its end; None when it does not within `seconds`."""
    end, said = time.monotonic() + seconds, b""
    while True:
        ready, _, _ = select.select([pipe], [], [], max(0.0, end - time.monotonic()))
        if not ready:
            return None
        block = os.read(pipe, 4096)
        said = (said + block)[:4096]
        if not block or len(said) >= size:  # a child that forges long answers is heard no longer
            return said.decode("ascii", "replace")


def same(found: str, wanted: str) -> bool:
    """Whether two outputs agree: token by token, letters of either case, numbers within 1e-5."""
    ours, theirs = found.split(), wanted.split()
    return len(ours) == len(theirs) and all(map(_alike, ours, theirs))


def _alike(ours: str, theirs: str) -> bool:
    if ours.lower() == theirs.lower():
        return True
    try:
        a, b = float(ours), float(theirs)
    except ValueError:
        return False
    return abs(a - b) <= 1e-5 * max(1.0, abs(b)) and any(mark in ours + theirs for mark in ".eE")


def judge(job: dict[str, Any], limits: dict[str, int], root: str, layers: dict[str, bool]) -> str:
    """What became of a job: its program alone, or on every (input, output) pair until one fails."""
    for given, wanted in job["pairs"] or [(None, None)]:
        folder = tempfile.mkdtemp(dir=root)
        try:
            said, output = attempt(job["program"], given, limits, folder, layers)
        finally:
            shutil.rmtree(folder, ignore_errors=True)
        if given is None:
            return "exited" if said.startswith("exited") else said
        if said == "exited 0":
            said = "passed"  # a program may end by leaving; its output decides
        if said != "passed":
            return said.partition(" ")[0] if said.startswith("exited") else said
        if not same(output, wanted):
            return "failed"
    return "passed"


def serve(work: dict[str, Any], root: str, out: int, layers: dict[str, bool]) -> None:
    """Init: every job in turn, one line each."""
    if layers["namespaces"]:
        flags = 2 | 4  # no set-user-id, no devices
        layers["tmpfs"] = libc.mount(b"tmpfs", root.encode(), b"tmpfs", flags, SPACE.encode()) == 0
        os.chdir(root)
    with os.fdopen(out, "w") as lines:
        for answer in ({"layers": layers}, *({"said": judge(j, work["limits"], root, layers)} for j in work["jobs"])):
            lines.write(json.dumps(answer) + "\n")
            lines.flush()


def main() -> int:
    """Read the work, leave for the namespaces, serve."""
    work = json.load(sys.stdin.buffer)
    root = os.path.realpath(os.getcwd())  # noqa: PTH109
    out = os.dup(1)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    layers = {"landlock": landlock(root, dry=True), "seccomp": seccomp(dry=True), "tmpfs": False}
    layers["namespaces"] = leave()
    if not layers["namespaces"]:
        serve(work, root, out, layers)
        return 0
    init = os.fork()
    if init == 0:
        serve(work, root, out, layers)
        os._exit(0)
    os.close(out)
    _, status = os.waitpid(init, 0)
    return os.waitstatus_to_exitcode(status)


if __name__ == "__main__":
    sys.exit(main())
