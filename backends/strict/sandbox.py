"""Execute a command with a pod container's view; a separate program, so that there are no threads.

A new root holds the programs of this machine, read-only, and the folders that a pod can write to. Run as
`python -I -S strict_sandbox.py SETTINGS COMMAND...`, where SETTINGS is JSON:

root         an empty folder read_only    paths that stay where they are writable     folders by the path at
which the command sees them user, group  who the command runs as directory    where it starts environment  all
of its variables
"""

import ctypes
import json
import os
import sys
from pathlib import Path

_CLONE_NEWNS, _CLONE_NEWUSER = 0x00020000, 0x10000000
_READ_ONLY, _REMOUNT, _BIND, _RECURSIVE, _PRIVATE = 1, 32, 4096, 16384, 1 << 18
_NO_NEW_PRIVILEGES = 38
# Flags of a mount; in a user namespace it must be remounted with the same.
_KEPT = {os.ST_NOSUID: 2, os.ST_NODEV: 4, os.ST_NOEXEC: 8, os.ST_NOATIME: 1024, os.ST_RELATIME: 1 << 21}

_libc = ctypes.CDLL(None, use_errno=True)


def _check(result: int, what: str) -> None:
    if result:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")


def _mount(source: str, target: Path, kind: str, flags: int, options: str = "") -> None:
    arguments = (source.encode(), os.fsencode(target), kind.encode(), flags, options.encode())
    _check(_libc.mount(*arguments), f"cannot mount {source or kind} at {target}")


def _unshare(flags: int, users: str = "", groups: str = "") -> None:
    _check(_libc.unshare(flags), "cannot make a namespace")
    if users:
        Path("/proc/self/setgroups").write_text("deny")
        Path("/proc/self/uid_map").write_text(users)
        Path("/proc/self/gid_map").write_text(groups)


def _place(root: Path, path: str) -> Path:
    place = root / path.lstrip("/")
    place.mkdir(parents=True, exist_ok=True)
    return place


def _build(root: Path, read_only: list[str], writable: dict[str, str]) -> None:
    _mount("none", Path("/"), "none", _RECURSIVE | _PRIVATE)
    _mount("none", root, "tmpfs", 0, "mode=0755")
    for path in read_only:
        place = root / path.lstrip("/")
        if os.path.islink(path):
            place.symlink_to(os.readlink(path))
            continue
        _mount(path, _place(root, path), "none", _BIND | _RECURSIVE)
        state = os.statvfs(place).f_flag
        kept = sum(flag for known, flag in _KEPT.items() if state & known)
        _mount("none", place, "none", _BIND | _REMOUNT | _READ_ONLY | kept)
    for path, source in writable.items():
        _mount(source, _place(root, path), "none", _BIND | _RECURSIVE)
    for path in ("/proc", "/dev"):
        _mount(path, _place(root, path), "none", _BIND | _RECURSIVE)
    _mount("none", root, "none", _BIND | _REMOUNT | _READ_ONLY)


def main() -> None:
    """Execute the command in this process; raise OSError if this machine doesn't allow it."""
    settings = json.loads(sys.argv[1])
    user, group, root = settings["user"], settings["group"], Path(settings["root"])
    is_root = os.geteuid() == 0
    if is_root:
        _unshare(_CLONE_NEWNS)
    else:
        _unshare(_CLONE_NEWUSER | _CLONE_NEWNS, f"0 {os.geteuid()} 1", f"0 {os.getegid()} 1")
    _build(root, settings["read_only"], settings["writable"])
    if not is_root:  # a process with another root may not make a user namespace
        _unshare(_CLONE_NEWUSER, f"{user} 0 1", f"{group} 0 1")
    os.chroot(root)
    os.chdir(settings["directory"])
    os.umask(0)  # as KFP's launcher has it
    if is_root:
        os.setgroups([])
        os.setgid(group)
        os.setuid(user)
    _check(_libc.prctl(_NO_NEW_PRIVILEGES, 1, 0, 0, 0), "cannot give up privileges")
    command = sys.argv[2:]
    os.execvpe(command[0], command, settings["environment"])  # noqa: S606 it is what the pipeline says


if __name__ == "__main__":
    main()
