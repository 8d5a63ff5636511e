"""What holds for every loss that the package exports."""

from __future__ import annotations

import inspect
import pathlib

import keras
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
