"""Archive files into `fills`: `vigil-backfill load`.

    places, s3 -> decoder (a process a job) -> loading (jobs, stop, tally) -> manifest (the batch's transaction)

Theory of operation. A job takes one file after the other. A process of its own reads, unpacks, decodes and
encodes (`decoder`), so that the next batch is made while the server is busy with the last one; the
job commits what comes out (`manifest`): rows, users, and how far the file is in, in one transaction. So
killed at any moment is one case: the next load goes on behind the last line that is committed, after
it has seen that the text before is the same. Loads share files by a lock a file, which
falls with the session that holds it, and a batch of a load whose file was taken over is not
committed. A file that another load is at is looked at again when all others are done.
"""
