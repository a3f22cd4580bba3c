"""Launchers: where the engine runs. One file each."""
