"""Scoring by people who do not know which variant said what.

`sheet` writes a score sheet with the answers as A and B in random order and
keeps the key in the run's folder; it reads a filled sheet back. `summary`
makes figures of the ratings. `votes` are which answer somebody found best.
"""
