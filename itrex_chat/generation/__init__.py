"""Answers: a `Sequence` is one that is being made, `loop` drives sequences, `sampling` and `lookup` (drafts) serve them."""
