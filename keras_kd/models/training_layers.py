"""Layers that act during training only."""

from __future__ import annotations

_ONLY_IN_TRAINING = frozenset(
    {
        "ActivityRegularization", "AlphaDropout", "AugMix", "CutMix", "Dropout", "GaussianDropout",
        "GaussianNoise", "Identity", "MixUp", "RandAugment", "SpatialDropout1D",
        "SpatialDropout2D", "SpatialDropout3D",
    }
)  # fmt: skip


def acts_in_training_only(class_name: str) -> bool:
    """Whether layers of a class of Keras return at inference what they are given.

    Args:
        class_name: Name of the class.
    """
    # At inference RandomCrop takes the middle.
    is_augmentation = class_name.startswith("Random") and class_name != "RandomCrop"
    return is_augmentation or class_name in _ONLY_IN_TRAINING
