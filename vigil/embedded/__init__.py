"""Embedded Postgres: a real server for those who have neither Docker nor a database of their own.

The one door is `embedded_postgres`. Behind it, in the order of what starts what:

- `place`     in the tool's process: the directories, sockets and binaries, checked and made.
- `account`   which system account runs Postgres when the tool is root.
- `seat`      in the tool's process too: asks for the server, and holds a seat while it is needed.
- `guardian`  a detached process, one for a data directory: counts seats, starts and stops.
- `cluster`   the Postgres files and processes; only the guardian touches them.
- `remains`   what an earlier, killed server left behind, cleared away before a start.

Any number of processes may use one data directory at once: the first starts Postgres, the last
one out stops it, in whatever manner it goes. `guardian` opens with why that holds.

This room must not know what is stored in the database. `import vigil.embedded` stays light
(standard library only), because the guardian starts from it.
"""

from vigil.embedded.seat import embedded_postgres

__all__ = ["embedded_postgres"]
