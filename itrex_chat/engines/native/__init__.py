"""This program as an engine: its own decoder, with its own kernels where they run."""
