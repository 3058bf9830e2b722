import numpy as np
import pytest
import torch

from pipeline.training.metrics import score


def test_a_case_by_hand():
    labels = np.array([0, 0, 1, 1])
    probabilities = np.full((4, 10), 0.01, dtype=np.float32)
    for row, (digit, p) in enumerate([(0, 0.8), (1, 0.6), (1, 0.7), (1, 0.9)]):
        probabilities[row, digit] = p
    probabilities[1, 0] = 0.2
    scores = score(labels, probabilities)
    assert scores.accuracy == 0.75
    # digit 0: precision 1, recall 1/2; digit 1: precision 2/3, recall 1; eight digits without any
    assert scores.f1 == pytest.approx((2 / 3 + 4 / 5) / 10)
    assert scores.loss == pytest.approx(-np.log([0.8, 0.2, 0.7, 0.9]).mean())
    assert scores.predicted.tolist() == [0, 1, 1, 1]
    assert scores.confusion[0, :2].tolist() == [1, 1]
    assert scores.confusion[1, :2].tolist() == [0, 2]
    assert scores.report["1"]["recall"] == 1


def test_the_loss_is_the_training_losss_cross_entropy():
    torch.manual_seed(0)
    logits, labels = torch.randn(500, 10) * 5, torch.randint(10, (500,))
    expected = torch.nn.functional.cross_entropy(logits, labels).item()
    assert score(labels.numpy(), logits.softmax(1).numpy()).loss == pytest.approx(expected)


def test_a_probability_of_zero_is_no_infinite_loss():
    probabilities = np.zeros((1, 10), dtype=np.float32)
    probabilities[0, 3] = 1
    assert np.isfinite(score(np.array([5]), probabilities).loss)
