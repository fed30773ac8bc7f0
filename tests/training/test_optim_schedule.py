import pytest

from georsr.training.optim import cosine, multi_step


def test_cosine_rises_holds_and_falls():
    shares = [cosine(step, 100, 10, 0.5) for step in range(101)]
    assert shares[0] == pytest.approx(0.1)
    assert shares[10:50] == [1.0] * 40
    assert shares[75] == pytest.approx(0.5)
    assert shares[100] == pytest.approx(0)


def test_multi_step_multiplies_from_each_milestone_on():
    shares = [multi_step(step, 4, (20, 10), 0.5) for step in range(25)]
    assert shares[:4] == [0.25, 0.5, 0.75, 1.0]
    assert shares[9:11] == [1.0, 0.5]
    assert shares[19:21] == [0.5, 0.25]
