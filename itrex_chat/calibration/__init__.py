"""Calibration: texts go through the blocks, one after the other, and say how much each input's errors count."""
