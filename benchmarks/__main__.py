"""`make bench`: every benchmark, one after the other."""

from benchmarks import ingest, limiter

if __name__ == "__main__":
    limiter.main()
    ingest.main()
