"""The dataset `digits`: real handwritten digits that come with scikit-learn."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

_DESCRIPTION = """
Handwritten digits: 1,797 gray images of 8x8 pixels in 10 classes, the test set of the "Optical
Recognition of Handwritten Digits" data of the UCI repository, as scikit-learn distributes it.
A pixel of the source counts, in 0..16, the ink in a block of 4x4; here it is times 16, at most 255.

The source holds the images in runs of about 130 in which the labels repeat one sequence, as if
each run were one filled-in form. The splits keep that order: `train` is the first 1,287 images
and `test` the last 510, and the cut falls between two runs, so that no run is in both.
"""

_CITATION = """
@misc{alpaydin1998optical,
  author = {Alpaydin, E. and Kaynak, C.},
  title = {Optical Recognition of Handwritten Digits},
  year = {1998},
  howpublished = {UCI Machine Learning Repository},
  doi = {10.24432/C50P49}
}
"""

TRAIN_EXAMPLES = 1287


class Digits(tfds.core.GeneratorBasedBuilder):  # type: ignore[misc]
    """The TFDS builder of `digits`.

    Features: `image`, uint8 of shape `[8, 8, 1]` in 0..255, and `label`, a class of 10.
    Splits: `train` (1,287 examples) and `test` (510). Source: Alpaydin and Kaynak, UCI, 1998.
    """

    VERSION = tfds.core.Version("1.0.0")
    RELEASE_NOTES = {"1.0.0": "First release."}  # noqa: RUF012

    def _info(self) -> tfds.core.DatasetInfo:
        return self.dataset_info_from_configs(
            description=_DESCRIPTION.strip(),
            citation=_CITATION.strip(),
            homepage="https://doi.org/10.24432/C50P49",
            features=tfds.features.FeaturesDict(
                {
                    "image": tfds.features.Image(shape=(8, 8, 1), dtype=np.uint8),
                    "label": tfds.features.ClassLabel(num_classes=10),
                }
            ),
            supervised_keys=("image", "label"),
            # The splits are small enough to be kept in the order of the source.
            disable_shuffling=True,
        )

    def _split_generators(self, dl_manager: Any) -> dict[str, Iterator[tuple[int, dict]]]:
        del dl_manager  # nothing is downloaded
        return {
            "train": self._generate_examples(0, TRAIN_EXAMPLES),
            "test": self._generate_examples(TRAIN_EXAMPLES, None),
        }

    def _generate_examples(self, start: int, stop: int | None) -> Iterator[tuple[int, dict]]:
        from sklearn.datasets import load_digits

        source = load_digits()
        images = np.minimum(source.images * 16, 255).astype(np.uint8)[..., np.newaxis]
        for index in range(len(images))[start:stop]:
            yield index, {"image": images[index], "label": int(source.target[index])}
