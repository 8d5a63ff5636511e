"""Images of the Fashion-MNIST scripts: split, scaled, and augmented in views that a teacher saw."""

import dataclasses
from typing import Any

import numpy as np
import tensorflow as tf

import keras_kd as kd


@dataclasses.dataclass(frozen=True)
class ImageData:
    """Images, `uint8` `[n, height, width, channels]`, and labels, `int64` `[n]`, in memory."""

    name: str
    class_names: list[str]
    train: tuple[np.ndarray, np.ndarray]
    validation: tuple[np.ndarray, np.ndarray]
    test: tuple[np.ndarray, np.ndarray]


def _scale(image: Any, label: Any) -> tuple[Any, Any]:
    return tf.cast(image, tf.float32) / 255.0, label


def evaluation_dataset(
    part: tuple[np.ndarray, np.ndarray], batch_size: int = 250
) -> tf.data.Dataset:
    """Return `part` in order, scaled to `[0, 1]` and batched."""
    return tf.data.Dataset.from_tensor_slices(part).batch(batch_size).map(_scale).prefetch(2)


def draw_views(examples: int, views: int, *, shift: int, flip: bool, seed: int = 0) -> np.ndarray:
    """Draw the augmentations of the training split once, so that the teacher can see them first.

    Args:
        examples: Number of images.
        views: Augmented views of each image; an epoch shows one of them, at random.
        shift: Largest shift in pixels, in all directions.
        flip: Whether to mirror half of the views from left to right.
        seed: Fixes the views. Defaults to `0`.

    Returns:
        `int32` array `[views, examples, 3]`: shift down, shift right, mirrored or not.
    """
    rng = np.random.default_rng(seed)
    shifts = rng.integers(0, 2 * shift + 1, (views, examples, 2))
    mirrored = rng.integers(0, 2 if flip else 1, (views, examples, 1))
    return np.concatenate([shifts, mirrored], -1).astype("int32")


def augment(images: Any, view: Any, shift: int) -> Any:
    """Return `uint8` images `[batch, height, width, channels]` as seen in `view` `[batch, 3]`."""
    height, width = images.shape[1:3]
    images = tf.pad(images, [[0, 0], [shift, shift], [shift, shift], [0, 0]])
    rows = view[:, 0:1] + tf.range(height)
    columns = view[:, 1:2] + tf.range(width)
    columns = tf.where(view[:, 2:3] > 0, columns[:, ::-1], columns)
    return tf.gather(tf.gather(images, rows, batch_dims=1), columns, axis=2, batch_dims=1)


def view_dataset(
    part: tuple[np.ndarray, np.ndarray], view: np.ndarray, *, shift: int, batch_size: int = 250
) -> tf.data.Dataset:
    """Return one view of all images in order, scaled to `[0, 1]` and batched, without labels."""

    def see(images: Any, drawn: Any) -> Any:
        return _scale(augment(images, drawn, shift), None)[0]

    return (
        tf.data.Dataset.from_tensor_slices((part[0], view)).batch(batch_size).map(see).prefetch(2)
    )


def training_dataset(
    part: tuple[np.ndarray, np.ndarray],
    views: np.ndarray | None = None,
    *,
    batch_size: int,
    seed: int,
    shift: int,
    flip: bool,
    teacher_outputs: np.ndarray | None = None,
) -> tf.data.Dataset:
    """Return `part` shuffled, each image in one of its views, scaled to `[0, 1]` and batched.

    Args:
        part: Images and labels.
        views: The views of `draw_views`. Defaults to `None`: augmented anew in every epoch.
        batch_size: Examples a batch; the incomplete last batch is dropped.
        seed: Fixes the order, and which view an epoch shows.
        shift: Largest shift in pixels, in all directions.
        flip: Whether half of the images are mirrored from left to right.
        teacher_outputs: The teacher's outputs for every view, `[views, examples, classes]`.
            Defaults to `None`.

    Returns:
        Batches of images, or of `TaughtInputs` where there are `teacher_outputs`, and labels.
    """
    indices = np.arange(len(part[0]))
    batches = (
        tf.data.Dataset.from_tensor_slices((*part, indices))
        .shuffle(len(indices), seed=seed)
        .batch(batch_size, drop_remainder=True)
    )
    seeds = tf.data.Dataset.random(seed=seed, rerandomize_each_iteration=True).batch(2)

    def see(batch: tuple[Any, Any, Any], random: Any) -> tuple[Any, Any]:
        images, labels, index = batch
        if views is None:
            shifts = tf.random.stateless_uniform(
                (batch_size, 2), random, 0, 2 * shift + 1, tf.int32
            )
            mirrored = tf.random.stateless_uniform(
                (batch_size, 1), random + 1, 0, 1 + flip, tf.int32
            )
            view = tf.concat([shifts, mirrored], -1)
        else:
            shown = tf.random.stateless_uniform((batch_size,), random, 0, len(views), tf.int64)
            index = tf.stack([shown, index], -1)
            view = tf.gather_nd(views, index)
        images, labels = _scale(augment(images, view, shift), labels)
        if teacher_outputs is None:
            return images, labels
        return kd.teachers.TaughtInputs(images, tf.gather_nd(teacher_outputs, index)), labels

    return tf.data.Dataset.zip((batches, seeds)).map(see, num_parallel_calls=2).prefetch(4)


def load_images(name: str, validation_examples: int) -> ImageData:
    """Load an image classification data set with `tfds.load`.

    Args:
        name: A TFDS data set with the splits `train` and `test`, the features `image` and `label`.
        validation_examples: The last so many training examples are held out.
    """
    (train, test), info = kd.datasets.load(
        name, split=["train", "test"], batch_size=-1, as_supervised=True, with_info=True
    )
    images, labels = (np.asarray(part) for part in train)
    cut = len(images) - validation_examples
    return ImageData(
        name=name,
        class_names=list(info.features["label"].names),
        train=(images[:cut], labels[:cut]),
        validation=(images[cut:], labels[cut:]),
        test=(np.asarray(test[0]), np.asarray(test[1])),
    )
