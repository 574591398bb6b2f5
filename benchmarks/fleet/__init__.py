"""A fleet on paper: how long 100,000 or a million users take, with 1 to 100 addresses, and who keeps whom waiting.

    python -m benchmarks.fleet                  the tables of docs/scale.md (about 15 minutes)
    python -m benchmarks.fleet --pictures       and its pictures
    python -m benchmarks.fleet --quick          a hundredth of the users

**What is simulated.** Addresses of 1200 weight a minute, each read by one worker with so many readers, all
claiming users from one order, on a clock of their own: only waiting takes time. Two ways:

- `real`: `WeightLimiter`, `read_user`, `Walk` as they are, in virtual time, each address judged by a model
  of the exchange under every window model at once (`tests/kit`).
- `model`: the same `Budget` and the same rule for when a page is the last one, with a heap of events instead
  of asyncio and counted rows instead of fills. Ten times as fast, and with one address equal to `real`
  request by request, to the millisecond. With several, microseconds decide which of them claims a user, so their
  ends may differ by a minute, the time until a page fits in again: `tests/pure/test_fleet_model.py`.

**What is made up**: the users (`population`). Nobody has published how long histories are; the answers depend
on it, so there are three populations, and `--lengths FILE` takes measured ones.

**What is left out**: the database (it is taken to keep up; where it stops is in docs/scale.md), claims
(milliseconds), TWAP slices, faults, answers 429 (there are none), workers that share an address.
"""
