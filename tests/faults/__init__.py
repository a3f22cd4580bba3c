"""Tests that hurt a training run on purpose: kills, full disks, flipped bits, signals, NaN, out of memory.

    zygote.py     a process that has imported everything; a training forked from it costs under a second
    injection.py  the faults, installed in a forked worker before it trains: plain data, see its docstring
    mounts.py     small and read-only file systems in a mount namespace of their own
    harness.py    what the tests use: `Place.run` makes a run, `Zygote.train` attempts it with faults, `expected` is the
                  digest of the adapter that nobody disturbed
    storm.py      kills at random instants; `make storm` goes on for hours

A test that draws random numbers prints its seed; TUNE_STORM_SEED=N draws the same again.
"""
