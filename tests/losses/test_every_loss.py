"""What holds for every loss that the package exports."""

from __future__ import annotations

import inspect
import pathlib

import keras
import numpy as np
import pytest

from keras_kd import losses

LOSSES = [
    value
    for value in vars(losses).values()
    if inspect.isclass(value)
    and issubclass(value, losses.DistillationLoss)
    and value is not losses.DistillationLoss
]
RESPONSE = {
    "AlphaBeta",
    "BinaryKLDivergence",
    "BoundedRegression",
    "ClassConsistency",
    "DIST",
    "DKD",
    "JensenShannon",
    "KLDivergence",
    "LogitsMSE",
    "MultiLevel",
    "NKD",
    "ProbabilityMSE",
    "ReverseKL",
    "SkewKL",
    "SoftCrossEntropy",
    "StandardizedKL",
}
FEATURE = {
    "ChannelWise",
    "PearsonFeatures",
    "MaskedGenerative",
    "LocalizationDistillation",
    "ForegroundWeighted",
    "AttentionTransfer",
    "CRD",
    "FSP",
    "FitNet",
    "ICKD",
    "NST",
    "ReviewKD",
    "SRRL",
    "AttentionRelation",
    "AttentionScores",
    "VID",
}
RELATION = {
    "CorrelationCongruence",
    "CosineRelation",
    "PKT",
    "RKD",
    "RKDAngle",
    "RKDDistance",
    "SimilarityPreserving",
}


def test_the_losses_are_these():
    assert {loss.__name__ for loss in LOSSES} == RESPONSE | FEATURE | RELATION


@pytest.mark.parametrize("loss", LOSSES)
def test_is_registered_with_keras(loss):
    assert keras.saving.get_registered_name(loss) == f"keras_kd>{loss.__name__}"


@pytest.mark.parametrize("loss", LOSSES)
def test_has_a_file_and_a_test_file_of_its_own(loss):
    file = pathlib.Path(inspect.getfile(loss))
    classes = [other for other in LOSSES if inspect.getfile(other) == str(file)]
    assert classes == [loss]
    assert pathlib.Path(__file__).with_name(f"test_{file.name}").exists()


@pytest.mark.parametrize("loss", LOSSES)
def test_says_what_it_takes_and_where_it_comes_from(loss):
    text = inspect.getdoc(loss)
    for section in ("Args:", "Example:", "Reference:"):
        assert section in text
    for argument in inspect.signature(loss).parameters:
        assert f"    {argument}: " in text


@pytest.mark.parametrize("loss", LOSSES)
def test_what_it_reads(loss):
    assert loss.reads_features == (loss.__name__ in FEATURE | RELATION)
    assert loss.uses_logits == (loss.__name__ in RESPONSE - {"BoundedRegression"})


# Losses of one vector per sample, of maps with two sides, and of labels of whole samples.
NO_SEQUENCES = {"CRD", "ClassConsistency", "ForegroundWeighted", "ReviewKD"}
MADE = {
    "AttentionRelation": {"heads": 2},
    "LocalizationDistillation": {"bins": 2},
    "MaskedGenerative": {"mask_ratio": 0.0},
}


def made(loss, shape):
    """A loss for features of this shape, its variables made."""
    arguments = dict(MADE.get(loss.__name__, {}))
    if loss is losses.SRRL:
        arguments["classifier"] = keras.layers.Dense(3)
        arguments["classifier"].build((None, shape[-1]))
    result = loss(**arguments)
    if hasattr(result, "build"):
        result.build((None, *shape[1:]), (None, *shape[1:]))
    return result


@pytest.mark.parametrize("side", ["teacher", "student"])
@pytest.mark.parametrize(
    "loss", [loss for loss in LOSSES if loss.__name__ not in NO_SEQUENCES], ids=lambda x: x.__name__
)
def test_what_stands_at_masked_positions_does_not_count(loss, side):
    rng = np.random.default_rng(0)
    teacher, student, noise = (rng.normal(size=(4, 6, 4)).astype("float32") for _ in range(3))
    mask = np.arange(6) < np.array([[6], [3], [2], [5]])
    labels = student if loss is losses.BoundedRegression else rng.integers(0, 4, (4, 6))
    tested = made(loss, teacher.shape)

    def value(teacher, student):
        tensors = {"teacher": [teacher, 0.5 * teacher], "student": [student, student**2]}
        if loss.__name__.startswith("Attention") and tested.several_layers:
            split = lambda x: x.reshape(4, 6, 2, 2)  # noqa: E731
            tensors = {key: [split(x) for x in (*y, y[0])] for key, y in tensors.items()}
        if loss is losses.LocalizationDistillation:
            tensors["student"] = [student]
        tensors = {k: list(map(keras.ops.convert_to_tensor, v)) for k, v in tensors.items()}
        for tensor in tensors[side]:
            keras.src.backend.set_keras_mask(tensor, keras.ops.convert_to_tensor(mask))
        pair = tensors["teacher"], tensors["student"]
        pair = pair if tested.several_layers else (pair[0][0], pair[1][0])
        return float(tested(*pair, labels=labels))

    garbage = [np.where(mask[..., None], x, 30 * noise) for x in (teacher, student)]
    assert value(*garbage) == pytest.approx(value(teacher, student), rel=1e-4)
