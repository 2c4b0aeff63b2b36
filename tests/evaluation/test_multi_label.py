"""Multi-label mAP against values computed by hand and against an independent implementation."""

from __future__ import annotations

import numpy as np
import pytest
from predicted import classified
from sklearn.metrics import average_precision_score

from slowfast_core.errors import InputError
from slowfast_core.evaluation.measure import measure
from slowfast_core.evaluation.multi_label import average_precision, evaluate_multi_label
from slowfast_core.evaluation.report import write_report

NAMES = ("sit", "eat", "never")


def test_ap_by_hand() -> None:
    """Class sit has hits at ranks 1 and 3 of four, class eat at rank 2."""
    scores = np.array([[0.9, 0.2, 0], [0.8, 0.5, 0], [0.7, 0.4, 0], [0.1, 0.1, 0]])
    truth = np.array([[1, 0, 0], [0, 0, 0], [1, 1, 0], [0, 0, 0]], dtype=bool)
    truth[1, 1] = truth[3, 1] = True
    precision = average_precision(scores, truth)
    assert precision[0] == pytest.approx((1 + 2 / 3) / 2)
    assert precision[1] == pytest.approx((1 + 1 + 3 / 4) / 3)
    assert np.isnan(precision[2])


def test_a_video_without_actions_does_not_lower_precision() -> None:
    """The official script gives such a video no score, so that it ranks last."""
    scores = np.array([[0.9], [0.5], [0.4]])
    assert average_precision(scores, np.array([[False], [True], [True]]))[0] == 1.0


def test_equal_scores_keep_the_order_of_the_videos() -> None:
    truth = np.array([[False, True], [True, False], [False, True]])
    assert average_precision(np.zeros((3, 2)), truth) == pytest.approx([1 / 2, (1 + 2 / 3) / 2])


def test_agrees_with_scikit_learn_without_ties_or_empty_classes() -> None:
    random = np.random.default_rng(0)
    scores, truth = random.random((200, 30)), random.random((200, 30)) < 0.2
    truth[~truth.any(axis=1), 0] = True
    assert average_precision(scores, truth) == pytest.approx(average_precision_score(truth, scores, average=None))


def test_the_result_and_its_report(tmp_path) -> None:
    scores = np.array([[0.9, 0.1, 0.0], [0.2, 0.6, 0.0], [0.3, 0.7, 0.1]])
    result = evaluate_multi_label(["a", "b", "c"], scores, [[0, 1], [0], []], NAMES)
    assert result.metrics == {"mAP": pytest.approx((1 + 1 / 2) / 2)}
    assert (result.videos, result.unlabelled, result.positives.tolist()) == (3, 1, [2, 1, 0])
    assert [(e.id, e.truth, e.predicted) for e in result.worst] == [("c", "none", "eat"), ("b", "sit", "eat")]
    assert [(e.id, e.truth, e.predicted) for e in result.best] == [("a", "sit, eat", "sit")]
    measured = measure(classified(scores, [[0, 1], [0], []], NAMES, protocol="multi_label"))
    assert measured.result.metrics == result.metrics
    write_report(tmp_path / "report.html", measured)
    page = (tmp_path / "report.html").read_text()
    assert "75.0 %" in page
    assert "1 of them have no action and are ranked last" in page


def test_videos_without_actions_are_refused() -> None:
    with pytest.raises(InputError, match="no video has an action to evaluate"):
        evaluate_multi_label(["a"], np.zeros((1, 3)), [[]], NAMES)
    with pytest.raises(ValueError, match="not finite"):
        evaluate_multi_label(["a"], np.full((1, 3), np.nan), [[0]], NAMES)
