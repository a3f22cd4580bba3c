"""What `tune doctor` knows: checks of this machine, one small function each, and diagnoses of runs from what they recorded.

finding       one line about the environment, and the guard that turns a check's own error into one
software      Python, libraries against the tested set, `tune` on PATH, terminal, environment variables
gpus          driver, GPUs, the torch build against both; without torch
storage       memory, folders, limits
network       hub, token, trackers
probing       what the libraries do when they are really imported: in a process of its own, see `engine.probe`
needs         what one recipe needs here
environment   all of them, in the order of the page

record        what is known of one run, read from its files
numbers       slopes and medians
causes        why a run ended as it did
curves        what its losses say
cuts          what was cut of its rows
pace          what its speed and memory say
diagnosis     all of them, for one run
"""

from nothing_tune.run.doctor.diagnosis import Cause, Diagnosis, diagnose
from nothing_tune.run.doctor.environment import examine
from nothing_tune.run.doctor.finding import Finding

__all__ = ["Cause", "Diagnosis", "Finding", "diagnose", "examine"]
