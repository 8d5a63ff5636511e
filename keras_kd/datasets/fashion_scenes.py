"""The dataset `fashion_scenes`: composed scenes of Fashion-MNIST, with masks and boxes."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

_DESCRIPTION = """
Composed scenes: two to four garments of Fashion-MNIST on one gray canvas of 64x64 pixels, with the
class of every pixel and the box of every garment. A garment is resized to 17 to 34 pixels (its own
are 28), and what of it is brighter than 31 of 255 is drawn; a later garment covers at most a
quarter of an earlier one. The background has a level of its own, up to 40, and noise, up to 23.
Masks and boxes are of what stays visible.

No source image is used twice. The 8,000 scenes of `train` are made from training images of
`fashion_mnist`, the 2,000 of `test` from its test images; they are the same whenever they are made.
"""

_CITATION = """
@article{xiao2017fashion,
  author = {Xiao, Han and Rasul, Kashif and Vollgraf, Roland},
  title = {Fashion-MNIST: a Novel Image Dataset for Benchmarking Machine Learning Algorithms},
  journal = {arXiv:1708.07747},
  year = {2017}
}
"""

LABELS = (
    "T-shirt/top",
    "Trouser",
    "Pullover",
    "Dress",
    "Coat",
    "Sandal",
    "Shirt",
    "Sneaker",
    "Bag",
    "Ankle boot",
)
SIDE = 64
SCENES = {"train": 8000, "test": 2000}

_SOURCES = {"train": "train[:50%]", "test": "test"}  # enough of `fashion_mnist` for the scenes
_SEEDS = {"train": 1, "test": 2}
_FAINTEST = 32  # a darker pixel of a source image is its background
_FEWEST_PIXELS = 40  # a garment with fewer bright pixels is not used
_STAYS_VISIBLE = 0.75
_TRIES = 30


class FashionScenes(tfds.core.GeneratorBasedBuilder):  # type: ignore[misc]
    """The TFDS builder of `fashion_scenes`.

    Features: `image`, uint8 of shape `[64, 64, 1]`; `segmentation_mask`, uint8 of shape
    `[64, 64, 1]`, 0 for the background and the class plus one for a garment; `objects`, a
    sequence of `bbox` (`ymin, xmin, ymax, xmax` in 0..1) and `label` (10 classes).
    Splits: `train` (8,000 examples) and `test` (2,000). Source: Xiao et al. 2017,
    arXiv:1708.07747.
    """

    VERSION = tfds.core.Version("1.0.0")
    RELEASE_NOTES = {"1.0.0": "First release."}  # noqa: RUF012

    def _info(self) -> tfds.core.DatasetInfo:
        canvas = functools.partial(tfds.features.Image, shape=(SIDE, SIDE, 1), dtype=np.uint8)
        garment = {
            "bbox": tfds.features.BBoxFeature(),
            "label": tfds.features.ClassLabel(names=LABELS),
        }
        return self.dataset_info_from_configs(
            description=_DESCRIPTION.strip(),
            citation=_CITATION.strip(),
            homepage="https://github.com/zalandoresearch/fashion-mnist",
            features=tfds.features.FeaturesDict(
                {
                    "image": canvas(),
                    "segmentation_mask": canvas(use_colormap=True),
                    "objects": tfds.features.Sequence(garment),
                }
            ),
            # Every scene is drawn at random already.
            disable_shuffling=True,
        )

    def _split_generators(self, dl_manager: Any) -> dict[str, Iterator[tuple[int, dict]]]:
        del dl_manager  # `fashion_mnist` downloads itself
        return {split: self._generate_examples(split) for split in SCENES}

    def _generate_examples(self, split: str) -> Iterator[tuple[int, dict]]:
        images, labels = self._source(split)
        yield from enumerate(compose(images, labels, SCENES[split], seed=_SEEDS[split]))

    def _source(self, split: str) -> tuple[np.ndarray, np.ndarray]:
        """The images and labels of `fashion_mnist`, from this dataset's own folder of datasets.

        If it is not there, from TFDS's default folder; if there neither, it is downloaded.
        """
        from keras_kd.datasets.loading import load

        folder: Any = self.data_dir_root
        if not tfds.builder("fashion_mnist", data_dir=folder).is_prepared():
            folder = None if tfds.builder("fashion_mnist").is_prepared() else folder
        images, labels = load(
            "fashion_mnist",
            split=_SOURCES[split],
            data_dir=folder,
            batch_size=-1,
            as_supervised=True,
        )
        return np.asarray(images)[..., 0], np.asarray(labels)


def compose(images: np.ndarray, labels: np.ndarray, scenes: int, seed: int) -> Iterator[dict]:
    """Draw scenes of several garments; only whole numbers are used, for the same bytes everywhere.

    Args:
        images: uint8 array of shape `[examples, 28, 28]`, garments on black, more than four for
            every scene.
        labels: Their classes, 0 to 9, of shape `[examples]`.
        scenes: Number of scenes.
        seed: Seed of the garments, their sizes and places, and of the background.

    Yields:
        A dict with the features of `fashion_scenes` for every scene.
    """
    random = np.random.RandomState(seed)  # frozen: the same numbers in every version of NumPy
    order = random.permutation(len(images))
    used = 0
    for _ in range(scenes):
        wanted = random.randint(2, 5)
        owner = np.zeros((SIDE, SIDE), np.int64)  # 0: background; n: the n-th garment
        level = np.uint8(random.randint(0, 41))
        canvas = level + random.randint(0, 24, (SIDE, SIDE), np.uint8)
        drawn: list[int] = []  # their classes
        sizes = [0]
        while len(drawn) < wanted:
            source = order[used]
            used += 1
            garment = _resize(images[source], random.randint(17, 35))
            shape = garment >= _FAINTEST
            place = _free_place(owner, sizes, shape, random)
            if place is None:
                if len(drawn) < 2:
                    continue
                break
            drawn.append(int(labels[source]))
            sizes.append(int(shape.sum()))
            owner[place][shape] = len(drawn)
            canvas[place][shape] = garment[shape]
        classes = np.array([0, *(label + 1 for label in drawn)], np.uint8)
        yield {
            "image": canvas[..., np.newaxis],
            "segmentation_mask": classes[owner][..., np.newaxis],
            "objects": [
                {"bbox": _box(owner == number), "label": label}
                for number, label in enumerate(drawn, start=1)
            ],
        }


def _free_place(
    owner: np.ndarray, sizes: list[int], shape: np.ndarray, random: np.random.RandomState
) -> tuple[slice, slice] | None:
    """A random place which leaves enough of every garment visible; None if none was found."""
    if shape.sum() < _FEWEST_PIXELS:
        return None
    side = len(shape)
    enough = _STAYS_VISIBLE * np.array(sizes)
    for y, x in random.randint(0, SIDE - side + 1, (_TRIES, 2)):
        place = slice(y, y + side), slice(x, x + side)
        left = np.bincount(owner.ravel(), minlength=len(sizes))
        left -= np.bincount(owner[place][shape], minlength=len(sizes))
        if np.all(left[1:] >= enough[1:]):
            return place
    return None


def _box(visible: np.ndarray) -> tfds.features.BBox:
    """The box around the pixels that are set, in parts of the canvas."""
    rows, columns = (np.flatnonzero(visible.any(axis)) for axis in (1, 0))
    return tfds.features.BBox(
        ymin=rows[0] / SIDE,
        xmin=columns[0] / SIDE,
        ymax=(rows[-1] + 1) / SIDE,
        xmax=(columns[-1] + 1) / SIDE,
    )


def _resize(image: np.ndarray, side: int) -> np.ndarray:
    """The square image at another size, bilinear, with antialiasing where it becomes smaller."""
    weights = _weights(len(image), side)
    return np.minimum((weights @ image.astype(np.int64) @ weights.T + 2**15) >> 16, 255)


@functools.cache
def _weights(before: int, after: int) -> np.ndarray:
    """The weights of the old pixels in every new one, in parts of 256."""
    ratio = before / after
    centers = (np.arange(after)[:, np.newaxis] + 0.5) * ratio - 0.5
    distances = np.abs(np.arange(before) - centers) / max(ratio, 1.0)
    weights = np.maximum(1.0 - distances, 0.0)
    weights /= weights.sum(axis=1, keepdims=True)
    parts = np.rint(256 * weights).astype(np.int64)
    parts[np.arange(after), parts.argmax(axis=1)] += 256 - parts.sum(axis=1)
    return parts
