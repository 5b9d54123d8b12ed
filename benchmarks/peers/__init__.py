"""The contestants, one module each, run in the environment of each: `python -m peers.NAME`."""
