"""`python -m vigil` is `vigil-backfill`."""

from vigil.cli import main

main()
