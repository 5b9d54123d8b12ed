"""The gate: conditions that make `compare` fail, and never pass what was not checked."""

import math

import numpy as np
import pytest
from test_compare import answer, record
from test_report import measured

from itrex_chat import compare as comparing
from itrex_chat.comparison import gate
from itrex_chat.foundation.errors import RunError
from itrex_chat.quality import metrics
from itrex_chat.quality import record as quality_record


@pytest.fixture
def run(tmp_path):
    """FP32 and INT4; INT4 measured with a mean divergence of about 0.08, and twice as fast."""
    made = record(
        tmp_path / "run",
        [
            answer(variant, id, variant + id, [1, len(variant) + ord(variant[0])], tpot)
            for variant, tpot in (("fp32", 0.2), ("int4", 0.1))
            for id in "ab"
        ],
    )
    quality_record.write(made.folder, {"m": measured(0.08)})
    return made.folder


@pytest.mark.parametrize(
    "condition, code",
    [
        ("kld_mean>0.05", 3),
        ("kld_mean > 0.2", 0),
        ("kld_mean>=0.05", 3),
        ("same_top<0.95", 3),
        ("same_top<0.5", 0),
        ("kld_mean.low>0.01", 3),
        ("kld_mean.high<0.01", 0),
        ("kld_999>0.01", 3),
        ("speedup<1.5", 0),
        ("speedup<2.5", 3),
        ("identical<1", 3),
        ("chrf<100", 3),
        ("ppl_ratio>100", 0),
        ("kld_mean>1e-3", 3),
    ],
)
def test_a_condition_that_holds_closes_the_gate(run, condition, code, capsys):
    assert comparing.main([str(run), "--fail-if", condition]) == code
    shown = capsys.readouterr()
    assert (f"({condition})" in shown.err) == (code == 3) and "Written to" in shown.out


def test_any_of_several_conditions_closes_it_and_each_is_told(run, capsys):
    assert comparing.main([str(run), "--fail-if", "kld_mean>0.05", "--fail-if", "speedup<9", "--fail-if", "ppl<0"]) == 3
    error = capsys.readouterr().err
    assert "kld_mean is 0.0" in error and "book <b>.txt" in error and "speedup is 2" in error and "ppl is" not in error


@pytest.mark.parametrize(
    "condition, hint",
    [
        ("kld_mean", "is no condition"),
        ("kld_mean>much", "is no condition"),
        ("kld_mean>nan", "is no condition"),
        ("kld_mean=0.1", "is no condition"),
        ("kld_maen>0.1", "Did you mean kld_mean?"),
        ("chrf.low<1", "no interval"),
        ("", "is no"),
    ],
)
def test_what_is_no_condition_is_refused_before_anything_is_written(run, condition, hint, capsys):
    assert comparing.main([str(run), "--fail-if", condition]) == 1
    assert hint in capsys.readouterr().err and not (run / "comparison.html").exists()


def test_a_figure_that_was_not_measured_does_not_pass(tmp_path, capsys):
    made = record(tmp_path / "run", [answer("fp32", "a", "x", [1]), answer("int4", "a", "y", [2])])
    assert comparing.main([str(made.folder), "--fail-if", "kld_mean>0.1"]) == 1
    assert "itrex_chat.measure" in capsys.readouterr().err
    alone = record(tmp_path / "alone", [answer("int4", "a", "x", [1])])
    assert comparing.main([str(alone.folder), "--fail-if", "speedup<1"]) == 1
    assert "nothing to compare" in capsys.readouterr().err


def test_a_value_that_is_no_number_or_an_open_end_does_not_pass():
    assert gate.parse("kld_mean>1").holds(math.nan) and not gate.parse("kld_mean>1").holds(1.0)


def test_every_name_is_known_to_the_parser():
    for name in gate.NAMES:
        assert gate.parse(f"{name}<=1").name == name
    with pytest.raises(RunError):
        gate.parse("nonsense>1")


def test_the_measured_names_are_a_measurements_figures():
    zeros, passages = np.zeros(4), np.array([0, 0, 1, 1])
    found = metrics.estimates(metrics.Positions(passages, zeros, zeros, zeros, zeros, np.ones(4)))
    assert set(gate.MEASURED) == set(found)
