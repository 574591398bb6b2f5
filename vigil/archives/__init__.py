"""Archive files to rows of `fills`: pure, no database, no network; `load` feeds it and commits what comes out.

    raw bytes -> text (`unpack`) -> lines (`lines`) -> batches of COPY text (`reading`)
    Parquet   -> columns (`parquet`)               -> batches

What a file is, is told by its content, never by its name. Formats: docs/archives.md. As in `fills`, an odd
row costs time but never a row: what can't be a fill becomes a `Rejected`. A batch knows where in the
text it ends (`Place`) and the digest of all text up to there, by which a later load finds out
whether what is in is the beginning of what it reads.
"""

from vigil.archives.batch import EVERYTHING, Batch, BatchSize, Place, Scope
from vigil.archives.reading import batches
from vigil.archives.trouble import ArchiveUnavailable, Damaged, NotFills

__all__ = [
    "EVERYTHING",
    "ArchiveUnavailable",
    "Batch",
    "BatchSize",
    "Damaged",
    "NotFills",
    "Place",
    "Scope",
    "batches",
]
