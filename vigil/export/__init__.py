"""Taking rows out of Postgres, so that people can leave it: Parquet and CSV, exact, ordered, whole or not there.

Theory of operation. Everything is read in one snapshot (REPEATABLE READ), a span of users after the other, by COPY, in
the order (user, time, place inside the millisecond). COPY sends whole rows, so what arrives is cut into blocks at any
message; a block is written in a thread while the next one arrives, and while the disk is slow the server waits: memory
stays flat. One pass serves every partition: by user a file ends where the next user begins, by month all months' files
are open at once and the fullest is written when too many rows wait.

Nothing is rounded: a number that a Parquet decimal can't hold stops the export, with the row's name. The rows written
are counted against those COPY sent. Files lie under names that nobody takes for data until all of them are whole and on
disk; then they are renamed, and the manifest comes last. Killed before that, nothing looks like an export; killed while
renaming, whole files are there without a manifest. What else lies at the target is never touched.

    wanted   what is asked for, what came out (pure)       place   where files appear, complete or not at all
    lines    rows as CSV, as the server printed them       output  one file on its way
    parquet  rows as Arrow columns, checked, in row groups
    job      one export: snapshot, spans, the manifest
"""

from vigil.export.job import Export
from vigil.export.wanted import Exported, Format, Numbers, Partition, Progress, Wanted

__all__ = ["Export", "Exported", "Format", "Numbers", "Partition", "Progress", "Wanted"]
