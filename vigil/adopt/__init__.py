"""Making somebody's `fills` table vigil's: look at it, plan, do it; losing nothing, and able to go on after any kill.

    look ──> plan ──> in_place | copy ──> put_back ──> the adoption is over
    inspect  plan     in_place, copy      aside

Theory of operation. There are two ways. *In place* where names, collations, indexes and constraints are
all that must change: nothing is rewritten. *Copy* where values must: the table is renamed to
`fills_before_adoption`, the migrations make a new one, rows move in steps of some blocks, each step one
transaction with its place, and the old table stays for its owner to drop.

Either way a row that SQL alone can't judge (it has no `tid`, a value is odd, the database refuses it, in
place also a second row of one key) goes aside as JSON and is put back at the end, when the key is there:
it is a fill, or was there already, or is in `rejected_fills` with the reason. So
received = inserted + already there + rejected, and a copy is over only when that is the old table's count.

What is left to do is read from the database, never remembered: the tables of `state` exist from the first
change to the end of an adoption (and while they exist, `store.check_fills_table` refuses a run), the rest
is planned anew from the table as it is. Each change is one transaction.

Must not know the exchange. Nothing here decides what a fill is: that is `fills` and the contract in `store`.
"""

from vigil.adopt.describe import describe
from vigil.adopt.job import AdoptionResult, adopt, preview
from vigil.adopt.plan import Plan, Preview, Way
from vigil.adopt.shape import OLD_TABLE

__all__ = ["OLD_TABLE", "AdoptionResult", "Plan", "Preview", "Way", "adopt", "describe", "preview"]
