"""Runs a Python program that nobody has read: without network, without a file that it can change, and not for long.

Linux namespaces make the walls (`unshare` and `setpriv` of util-linux, which need no root): the network is empty,
other processes cannot be seen, and every mount is read-only but an empty folder in memory. The program may read what
the user may read; all that comes out is whether it ran to its end."""

import platform
import shutil
import subprocess
import sys
import uuid
from functools import lru_cache

from hfgpt.errors import UserError

CPU_SECONDS = 3  # the time limit of the grader that HumanEval's authors published
WALL_SECONDS = 30  # for a program that sleeps, or a machine that is busy
MEMORY_KIB = 1 << 20
FOLDER, FOLDER_MIB = "/dev/shm", 16  # the empty one, which hides nothing that a program needs

# Runs as the root of its own user namespace, until setpriv gives that up. The options of a mount must be named when it
# is made read-only, for those that came from outside may not be dropped.
_WALLS = f"""
set -e
while read -r _ _ _ _ point options _; do
    mount -o "remount,bind,ro,${{options#r?}}" "$(printf %b "$point")"
done < /proc/self/mountinfo
mount -t tmpfs -o ro tmpfs /proc
mount -t tmpfs -o size={FOLDER_MIB}m,mode=700 tmpfs {FOLDER}
cd {FOLDER}
ulimit -t {CPU_SECONDS}
ulimit -v {MEMORY_KIB}
ulimit -c 0
exec setpriv --bounding-set=-all --inh-caps=-all --ambient-caps=-all --no-new-privs -- "$0" -I -S -
"""
_COMMAND = [
    *("unshare", "--user", "--map-root-user", "--mount", "--net", "--ipc", "--pid", "--fork", "--kill-child"),
    *("sh", "-c", _WALLS, sys.executable),
]


def runs_to_its_end(program: str) -> bool:
    """Whether `program` runs to its last line in time, without an error. Leaving early does not count."""
    last_words = uuid.uuid4().hex  # which the program cannot know
    try:
        done = subprocess.run(
            _COMMAND,
            input=f"{program}\nimport sys\nsys.stdout.write('\\n{last_words}')\n".encode(errors="replace"),
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            timeout=WALL_SECONDS,
            env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "TMPDIR": FOLDER},
        )
    except subprocess.TimeoutExpired:
        return False
    return done.returncode == 0 and done.stdout.endswith(last_words.encode())


@lru_cache(maxsize=1)
def check_sandbox() -> None:
    """Raises UserError where the walls cannot be made, or a program got through them."""
    missing = [name for name in ("unshare", "setpriv", "mount") if shutil.which(name) is None]
    if platform.system() != "Linux" or missing:
        raise UserError(
            "humaneval runs programs in a sandbox of Linux namespaces, which needs Linux with util-linux"
            + (f" ({', '.join(missing)} is not there)" if missing else "")
            + ": leave the task out."
        )
    if not runs_to_its_end("pass"):
        raise UserError(
            "humaneval runs programs in a sandbox, and this machine allows no user namespaces to make one of: leave "
            "the task out, or have an administrator allow them."
        )
