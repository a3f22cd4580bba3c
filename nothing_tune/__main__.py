"""`python -m nothing_tune`: the same as the command `tune`."""

from nothing_tune.cli import main

main()
