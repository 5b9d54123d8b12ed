"""The native kernels under AddressSanitizer and UndefinedBehaviorSanitizer, with buffers of exactly the right size."""

import fuzzing
import pytest


def test_some_hundred_random_cases_are_clean():
    """`make fuzz` runs 20,000 of them. What is compiled stays in build/fuzz; the first time takes half a minute."""
    if reason := fuzzing.missing():
        pytest.skip(reason)
    done = fuzzing.run(400)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.startswith("400 cases: ")
