"""Tests that hurt a training run on purpose: kills, full disks, flipped bits, signals, NaN, out of memory."""
