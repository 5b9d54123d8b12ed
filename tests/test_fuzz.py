"""Random cases under AddressSanitizer and UndefinedBehaviorSanitizer: of the native kernels, and of what comes from elsewhere."""

import fuzz_files
import fuzzing
import pytest
from fuzzed.wrongs import USES


def test_some_hundred_random_cases_of_the_kernels_are_clean():
    """`make fuzz` runs 20,000 of them. What is compiled stays in build/fuzz; the first time takes half a minute."""
    if reason := fuzzing.missing():
        pytest.skip(reason)
    done = fuzzing.run(400)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.startswith("400 cases: ")


def test_three_hundred_files_and_replies_end_by_themselves_or_in_a_sentence():
    """`make fuzz` runs 20,000 of them. What must be a finding is one: without that the rest would say nothing."""
    if reason := fuzz_files.missing():
        pytest.skip(reason)
    wrongs = range(-1, -1 - len(USES), -1)
    ends = {end["case"]: end for end in fuzz_files.run([*wrongs, *range(300)])}
    found = [number for number, end in ends.items() if fuzz_files.is_finding(end)]
    assert sorted(found) == sorted(wrongs), [ends[number] for number in found if number >= 0]
    assert {"done", "refused"} == {ends[number]["how"].partition(":")[0] for number in range(300)}
