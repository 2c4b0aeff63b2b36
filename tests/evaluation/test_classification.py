import numpy as np
import pytest

from slowfast_core.errors import InputError
from slowfast_core.evaluation.classification import (
    class_accuracy,
    confusion_matrix,
    evaluate_classification,
    mean_class_accuracy,
    top_k_accuracy,
)

SCORES = np.array([[0.7, 0.2, 0.1], [0.1, 0.3, 0.6], [0.2, 0.5, 0.3], [0.4, 0.35, 0.25]])
LABELS = np.array([0, 1, 1, 2])


@pytest.mark.parametrize(("k", "share"), [(1, 0.5), (2, 0.75), (3, 1.0), (5, 1.0)])
def test_top_k_by_hand(k: int, share: float) -> None:
    assert top_k_accuracy(SCORES, LABELS, k) == share


def test_constant_scores_gain_nothing() -> None:
    labels = np.arange(10)
    assert top_k_accuracy(np.ones((10, 10)), labels, 1) == 0.1
    assert top_k_accuracy(np.ones((10, 10)), labels, 5) == 0.5


@pytest.mark.parametrize("seed", range(5))
def test_top_k_agrees_with_sorting_and_argmax(seed: int) -> None:
    random = np.random.default_rng(seed)
    classes = int(random.integers(1, 9))
    scores = random.integers(0, 4, (50, classes)) / 4  # many ties
    labels = random.integers(0, classes, 50)
    for k in range(1, 10):
        best = [sorted(range(classes), key=lambda c, n=n: (-scores[n, c], c))[:k] for n in range(50)]
        assert top_k_accuracy(scores, labels, k) == np.mean([labels[n] in best[n] for n in range(50)])
    assert top_k_accuracy(scores, labels, 1) == (scores.argmax(1) == labels).mean()


def test_confusion_and_class_accuracy_by_hand() -> None:
    confusion = confusion_matrix(np.array([0, 2, 1, 0]), LABELS, 4)
    assert confusion.tolist() == [[1, 0, 0, 0], [0, 1, 1, 0], [1, 0, 0, 0], [0, 0, 0, 0]]
    np.testing.assert_array_equal(class_accuracy(confusion), [1.0, 0.5, 0.0, np.nan])
    assert mean_class_accuracy(confusion) == 0.5  # the class without videos is left out


def test_the_whole_result() -> None:
    result = evaluate_classification(["a", "b", "c", "d"], SCORES, LABELS, ["left", "right", "still"], examples=1)
    assert (result.top1, result.top5, result.videos) == (0.5, 1.0, 4)
    assert result.mean_class_accuracy == 0.5
    assert result.metrics == {"top1": 0.5, "top5": 1.0, "mean_class_accuracy": 0.5}
    (worst,), (best,) = result.worst, result.best
    assert (worst.id, worst.truth, worst.predicted, worst.score) == ("b", "right", "still", 0.6)
    assert (best.id, best.truth, best.score) == ("a", "left", 0.7)


def test_bad_input_is_refused() -> None:
    with pytest.raises(InputError, match="no video"):
        evaluate_classification([], np.empty((0, 3)), np.empty(0, dtype=int), ["a", "b", "c"])
    with pytest.raises(ValueError, match="not finite"):
        top_k_accuracy(np.array([[np.nan, 1.0]]), np.array([0]), 1)
    with pytest.raises(ValueError, match="classes"):
        top_k_accuracy(SCORES, np.array([0, 1, 2, 3]), 1)
    with pytest.raises(ValueError, match="do not fit"):
        evaluate_classification(["a", "b", "c", "d"], SCORES, LABELS, ["left", "right"])
