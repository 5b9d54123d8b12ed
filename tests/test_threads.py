"""The threads that compute (`native/team.c`): wherever a program calls from, results are the same."""

import os
from concurrent.futures import ThreadPoolExecutor

import native_cases
import pytest
import torch

from itrex_chat import native

pytestmark = pytest.mark.skipif(native.missing() is not None, reason=str(native.missing()))

WEIGHT = native_cases.packed(native_cases.matrix(256, 256, 32, 4), "int8")
ROWS = [native_cases.activations(rows, 256) for rows in (1, 3, 16, 40)]  # torch itself computes no part of it in threads


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
