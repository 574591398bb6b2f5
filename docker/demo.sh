#!/bin/sh
# The whole job against the simulator of the demo profile: its users, a backfill, and whether the table is its truth.
set -eu
simulator=${VIGIL_API_URL%/info}
python -c 'import json, sys, urllib.request
for user in json.load(urllib.request.urlopen(sys.argv[1] + "/truth?limit=1000"))["addresses"]:
    print(user)' "$simulator" | vigil-backfill users add --users-file -
vigil-backfill run
vigil-backfill status
vigil-backfill compare "$simulator"
