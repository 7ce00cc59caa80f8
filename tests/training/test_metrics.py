"""Metrics against scikit-learn."""

import numpy as np
import pytest
import sklearn.metrics
from hypothesis import given, settings
from hypothesis import strategies as st

from dhhpc.mpi import connect
from dhhpc.training.metrics import (
    ClassificationCounts,
    SegmentationCounts,
    area_under_curve,
    score_histogram,
)


def softmax(values):
    exponentials = np.exp(values - values.max(axis=1, keepdims=True))
    return (exponentials / exponentials.sum(axis=1, keepdims=True)).astype(np.float32)


def binary_case(seed, images=4, confidence=3.0):
    rng = np.random.default_rng(seed)
    targets = (rng.random((images, 1, 9, 11)) < 0.3).astype(np.float32)
    logits = confidence * (2 * targets - 1) + rng.normal(0, 2 * confidence, targets.shape)
    regions = (rng.random((images, 9, 11)) < 0.7).astype(np.uint8)
    return (1 / (1 + np.exp(-logits))).astype(np.float32), targets, regions


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 1000), st.booleans())
def test_binary_segmentation_inside_regions(seed, with_regions):
    predictions, targets, regions = binary_case(seed)
    counts = SegmentationCounts(["vessel"])
    for part in (slice(0, 1), slice(1, 4)):
        counts.add(predictions[part], targets[part], regions[part] if with_regions else None)
    inside = regions != 0 if with_regions else np.ones_like(regions, bool)
    truth, scores = targets[:, 0][inside] > 0, predictions[:, 0][inside]
    found = scores > 0.5
    results = counts.results()
    expected = {
        "dice": sklearn.metrics.f1_score(truth, found),
        "f1": sklearn.metrics.f1_score(truth, found),
        "iou": sklearn.metrics.jaccard_score(truth, found),
        "precision": sklearn.metrics.precision_score(truth, found),
        "recall": sklearn.metrics.recall_score(truth, found),
        "accuracy": sklearn.metrics.accuracy_score(truth, found),
    }
    for name, value in expected.items():
        assert results[name] == pytest.approx(value, abs=1e-12), name
    assert results["auc"] == pytest.approx(sklearn.metrics.roc_auc_score(truth, scores), abs=1e-3)


def test_image_dice_is_the_mean_over_images():
    predictions, targets, _ = binary_case(7)
    counts = SegmentationCounts(["vessel"])
    counts.add(predictions, targets, None)
    by_image = [
        sklearn.metrics.f1_score(target.ravel() > 0, prediction.ravel() > 0.5)
        for prediction, target in zip(predictions, targets, strict=True)
    ]
    assert counts.results()["image_dice"] == pytest.approx(np.mean(by_image))


@pytest.mark.parametrize("confidence", [0.1, 3, 10])
def test_auc_of_many_pixels_is_exact_to_four_digits(confidence):
    """Also where a confident network crowds its probabilities near 0 and 1."""
    predictions, targets, _ = binary_case(3, images=200, confidence=confidence)
    histogram = score_histogram(predictions.ravel(), targets.ravel() > 0)
    expected = sklearn.metrics.roc_auc_score(targets.ravel() > 0, predictions.ravel())
    assert area_under_curve(histogram) == pytest.approx(expected, abs=1e-4)


def test_auc_by_hand():
    scores = np.array([0.1, 0.4, 0.35, 0.8], np.float32)
    positive = np.array([False, False, True, True])
    assert area_under_curve(score_histogram(scores, positive)) == 0.75
    assert area_under_curve(score_histogram(np.array([0, 1], np.float32), np.array([False, True]))) == 1
    assert area_under_curve(score_histogram(np.full(4, 0.5, np.float32), positive)) == 0.5
    assert area_under_curve(score_histogram(scores, np.ones(4, bool))) is None


def test_segmentation_of_several_classes():
    rng = np.random.default_rng(5)
    labels = rng.integers(0, 3, (6, 8, 8))
    targets = np.moveaxis(np.eye(3, dtype=np.float32)[labels], -1, 1)
    predictions = softmax(2 * targets + rng.normal(0, 1, targets.shape))
    counts = SegmentationCounts(["liver", "tumour"])
    counts.add(predictions, targets, None)
    results = counts.results()
    found = predictions.argmax(axis=1)
    for index, name in enumerate(["liver", "tumour"], start=1):
        expected = sklearn.metrics.jaccard_score(labels.ravel() == index, found.ravel() == index)
        assert results["classes"][name]["iou"] == pytest.approx(expected)
        auc = sklearn.metrics.roc_auc_score(labels.ravel() == index, predictions[:, index].ravel())
        assert results["classes"][name]["auc"] == pytest.approx(auc, abs=1e-3)
    expected = sklearn.metrics.f1_score(labels.ravel(), found.ravel(), labels=[1, 2], average="macro")
    assert results["dice"] == pytest.approx(expected)
    assert results["accuracy"] == pytest.approx(np.mean(labels == found))


def test_nothing_there_and_nothing_found():
    counts = SegmentationCounts(["nodule"])
    counts.add(np.zeros((2, 1, 4, 4), np.float32), np.zeros((2, 1, 4, 4), np.float32), None)
    results = counts.results()
    assert (results["dice"], results["iou"], results["precision"], results["recall"]) == (1, 1, 0, 0)
    assert results["auc"] is None


def test_classification():
    rng = np.random.default_rng(2)
    labels = rng.integers(0, 4, 300)
    targets = np.eye(4, dtype=np.float32)[labels]
    predictions = softmax(targets + rng.normal(0, 1, targets.shape))
    counts = ClassificationCounts(list("abcd"))
    counts.add(predictions[:100], targets[:100])
    counts.add(predictions[100:], targets[100:])
    results = counts.results()
    found = predictions.argmax(axis=1)
    expected = sklearn.metrics.precision_recall_fscore_support(labels, found, average="macro")
    assert results["accuracy"] == pytest.approx(sklearn.metrics.accuracy_score(labels, found))
    assert [results[name] for name in ("precision", "recall", "f1")] == pytest.approx(list(expected[:3]))
    assert results["confusion"] == sklearn.metrics.confusion_matrix(labels, found).tolist()
    auc = sklearn.metrics.roc_auc_score(
        labels, predictions / predictions.sum(1, keepdims=True), multi_class="ovr"
    )
    assert results["auc"] == pytest.approx(auc, abs=1e-3)


@pytest.mark.mpi
def test_counts_of_ranks_sum_to_those_of_one():
    world = connect()
    predictions, targets, regions = binary_case(11, images=7)
    mine = slice(world.rank, None, world.size)
    counts, whole = SegmentationCounts(["vessel"]), SegmentationCounts(["vessel"])
    counts.add(predictions[mine], targets[mine], regions[mine])
    counts.reduce(world)
    whole.add(predictions, targets, regions)
    assert counts.results() == pytest.approx(whole.results())
    assert (counts.pixels == whole.pixels).all()
