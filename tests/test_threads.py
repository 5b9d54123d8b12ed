"""The threads that compute (`native/team.c`): wherever a program calls from, results are the same."""

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import native_cases
import pytest
import torch

from itrex_chat import native
from itrex_chat.foundation import machine

pytestmark = pytest.mark.skipif(native.missing() is not None, reason=str(native.missing()))

WEIGHT = native_cases.packed(native_cases.matrix(256, 256, 32, 4), "int8")
ROWS = [
    native_cases.activations(rows, 256) for rows in (1, 3, 16, 40)
]  # torch itself computes no part of it in threads


def products() -> torch.Tensor:
    return torch.cat([WEIGHT.matmul(rows) for rows in ROWS])


def test_threads_of_a_program_that_compute_at_once_get_what_each_gets_alone(threads):
    threads(2)
    alone = products()
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda _turn: products(), range(200)))
    assert all(native_cases.bit_equal(one, alone) for one in found)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
def test_a_program_that_was_forked_computes(threads):
    threads(2)
    alone = products()  # now there are threads, which the child has not
    child = os.fork()
    if not child:
        try:
            same = native_cases.bit_equal(products(), alone)
        finally:
            os._exit(0 if same else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


@pytest.mark.skipif(machine.waited_for_cores() is None, reason="this system does not tell how long threads wait")
def test_a_thread_that_shares_a_core_with_another_program_is_seen_to_wait():
    program = """
import os, subprocess, sys, time
from itrex_chat.foundation import machine
os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
other = subprocess.Popen([sys.executable, "-S", "-c", "while True: pass"])
before = machine.waited_for_cores()
while time.process_time() < 1.0: pass
other.kill()
print(machine.waited_for_cores() - before)
"""
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert float(ran.stdout) > 0.1
