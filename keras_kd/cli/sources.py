"""Where data come from: a folder of images, an .npz file, or TensorFlow Datasets."""

from __future__ import annotations

import difflib
import pathlib
import re
from typing import Any, Protocol

import numpy as np

from keras_kd.system.reading import read_arrays
from keras_kd.system.user_warning import warn_user

_FORMS = (
    "Give a folder with one subfolder of images per class, a .npz file with the arrays x and y, or "
    "a TFDS dataset such as fashion_mnist or 'fashion_mnist:train[:90%]'"
)
_PARTS = {"train", "training", "val", "valid", "validation", "test"}


class Source(Protocol):
    """Examples addressed by their position.

    Attributes:
        text: How it was given.
        class_names: The names of the classes, or `None` where they are not known.
        count: Number of examples.
        integers: Whether the inputs are integers, such as pixels.
        split: The split of a TFDS dataset, else `None`.
    """

    text: str
    class_names: list[str] | None
    count: int
    integers: bool
    split: str | None

    def select(self, indices: np.ndarray, channels: int) -> Any:
        """Return a `tf.data.Dataset` of the examples at `indices`: input and class index."""


def open_source(text: str, default_split: str = "train") -> Source:
    """Return the source that a text names.

    Args:
        text: A folder, an .npz file, or a TFDS dataset with or without a split.
        default_split: The split of a TFDS dataset that is given without one, if it has it.
            Defaults to `"train"`.

    Raises:
        FileNotFoundError: If there is nothing of this name.
        ValueError: If it does not hold what was expected.
    """
    path = pathlib.Path(text)
    if path.is_dir():
        return ImageFolder(text)
    if path.suffix == ".npz":
        return ArrayFile(text)
    if path.exists():
        raise ValueError(f"'{text}' is a file, but not a .npz file. {_FORMS}.")
    if not re.fullmatch(r"[A-Za-z]\w*(/[\w.-]+)?(:.+)?", text):
        raise FileNotFoundError(f"There is no folder and no .npz file '{text}'. {_FORMS}.")
    return NamedDataset(text, default_split)


def _near(name: str) -> str:
    """Return a sentence that offers a TFDS dataset of nearly this name, else what may be given."""
    import tensorflow_datasets as tfds

    known = tfds.list_builders(with_community_datasets=False)
    close = difflib.get_close_matches(re.split("[:/]", name)[0], known, n=1, cutoff=0.8)
    return f"Did you mean '{close[0]}'?" if close else f"{_FORMS}."


def _is_hidden(path: pathlib.Path) -> bool:
    return any(part.startswith(".") for part in path.parts)


def _warn_of_others(root: pathlib.Path, folders: list[str], read: set[pathlib.Path]) -> None:
    """Warn of files that are not read, such as images in another format."""
    others = [
        path
        for folder in folders
        for path in (root / folder).rglob("*")
        if path.is_file() and path.relative_to(root) not in read
    ]
    others = [path for path in others if not _is_hidden(path.relative_to(root))]
    if others:
        kinds = sorted({path.suffix.lower() or path.name for path in others})
        warn_user(
            f"{len(others):,} files in '{root}' are not read ({', '.join(kinds[:5])}), the first "
            f"is '{min(others)}'. Images are .jpg, .png, .bmp and .gif: convert others."
        )


class ImageFolder:
    """A folder with one subfolder of images a class, as Keras reads it.

    Args:
        text: The folder.
    """

    integers = True
    split: str | None = None

    def __init__(self, text: str) -> None:
        import keras

        from keras_kd.system.quiet import capture_output

        self.text = text
        folders = sorted(p.name for p in pathlib.Path(text).iterdir() if p.is_dir())
        folders = [name for name in folders if not name.startswith(".")]
        if not folders:
            raise ValueError(f"'{text}' has no subfolders. {_FORMS}.")
        if set(map(str.lower, folders)) <= _PARTS:
            raise ValueError(
                f"'{text}' holds {', '.join(folders)}, which look like parts of a dataset, not "
                f"classes. Pass them separately: --data {text}/{folders[0]} --validation-data "
                f"{text}/{folders[-1]}."
            )
        with capture_output(replay_on_error=False):
            listed = keras.utils.image_dataset_from_directory(
                text, label_mode="int", shuffle=False, batch_size=None
            )
        self.class_names: list[str] | None = list(listed.class_names)
        root = pathlib.Path(text)
        found = [pathlib.Path(path).relative_to(root) for path in listed.file_paths]
        found = [path for path in found if not _is_hidden(path)]  # copies of editors and notebooks
        self.paths = np.asarray([str(root / path) for path in found])
        _warn_of_others(root, folders, set(found))
        order = {name: i for i, name in enumerate(listed.class_names)}
        self.labels = np.asarray([order[path.parts[0]] for path in found], "int64")
        self.count = len(self.paths)
        empty = [name for name, i in order.items() if not (self.labels == i).any()]
        if empty:
            raise ValueError(
                f"'{text}' has no images (.jpg, .png, .bmp, .gif) in '{empty[0]}'. Add some, or "
                "remove that folder."
            )

    def select(self, indices: np.ndarray, channels: int) -> Any:
        """Return the images at `indices`, decoded."""
        import tensorflow as tf

        def read(path: Any, label: Any) -> tuple[Any, Any]:
            content = tf.io.read_file(path)
            image = tf.io.decode_image(content, channels=channels, expand_animations=False)
            image.set_shape([None, None, channels])
            return image, label

        rows = self.paths[indices], self.labels[indices]
        return tf.data.Dataset.from_tensor_slices(rows).map(read, num_parallel_calls=2)

    def damaged(self) -> str | None:
        """Return the first image that cannot be decoded."""
        import tensorflow as tf

        for path in self.paths:
            try:
                tf.io.decode_image(tf.io.read_file(path), expand_animations=False)
            except tf.errors.OpError:
                return str(path)
        return None


class ArrayFile:
    """An .npz file with the arrays `x` and `y`, and perhaps `class_names`.

    Args:
        text: The file.
    """

    split: str | None = None

    def __init__(self, text: str) -> None:
        self.text = text
        path = pathlib.Path(text)
        if not path.is_file():
            raise FileNotFoundError(f"There is no file '{text}'.")
        arrays = read_arrays(path)
        if not {"x", "y"} <= set(arrays):
            found = ", ".join(arrays) or "nothing"
            raise ValueError(
                f"'{text}' must hold the arrays x and y, but holds {found}. Write it with "
                f"np.savez('{path.name}', x=images, y=labels)."
            )
        self.x, labels = arrays["x"], arrays["y"]
        if self.x.dtype.kind not in "fiub" or labels.dtype.kind not in "fiub":
            raise ValueError(
                f"'{text}': x and y must be numbers, but are {self.x.dtype} and {labels.dtype}."
            )
        if labels.ndim == 2 and labels.shape[1] == 1:
            labels = labels[:, 0]
        elif labels.ndim == 2:  # one-hot
            if not np.isin(labels, (0, 1)).all() or not (labels.sum(1) == 1).all():
                raise ValueError(f"'{text}': y has the shape {labels.shape} and is not one-hot.")
            labels = labels.argmax(1)
        if labels.ndim != 1 or len(labels) != len(self.x) or not len(labels):
            raise ValueError(
                f"'{text}': x has the shape {self.x.shape} and y {labels.shape}; expected one "
                "label per example."
            )
        if not np.array_equal(labels, labels.astype("int64")):
            raise ValueError(f"'{text}': y must be class indices, but holds fractions.")
        self.labels = labels.astype("int64")
        self.count = len(labels)
        self.integers = self.x.dtype.kind in "iub"
        self.largest = float(np.abs(self.x).max(initial=0.0)) if not self.integers else None
        names = arrays.get("class_names")
        self.class_names: list[str] | None = None if names is None else [str(n) for n in names]

    def select(self, indices: np.ndarray, channels: int) -> Any:
        """Return the examples at `indices`."""
        import tensorflow as tf

        return tf.data.Dataset.from_tensor_slices((self.x[indices], self.labels[indices]))


class NamedDataset:
    """A dataset of TensorFlow Datasets, `digits` included.

    Args:
        text: `name` or `name:split`; the name may hold a version, `name:3.0.1`.
        default_split: The split where none is given, if the dataset has it.
    """

    def __init__(self, text: str, default_split: str) -> None:
        from keras_kd.datasets import load

        self.text = text
        match = re.fullmatch(r"(?P<name>[^:]+(?::[\d.*]+)?)(?::(?P<split>.+))?", text)
        if match is None:
            raise ValueError(f"'{text}' is not the name of a dataset. {_FORMS}.")
        name, split = match["name"], match["split"]
        self.split = split
        try:
            loaded, info = load(
                name, split=split, as_supervised=True, with_info=True, shuffle_files=False
            )
        except ValueError as error:
            if "There is no dataset" in str(error):
                raise FileNotFoundError(
                    f"There is no folder, .npz file or TFDS dataset '{text}'. {_near(name)}"
                ) from None
            raise
        if isinstance(loaded, dict):
            self.split = default_split if default_split in loaded else "train"
            if self.split not in loaded:
                raise ValueError(
                    f"'{text}' has the splits {', '.join(loaded)}: name one, as in "
                    f"'{text}:{min(loaded)}'."
                )
            loaded = loaded[self.split]
        spec = loaded.element_spec
        if not (isinstance(spec, tuple) and len(spec) == 2 and hasattr(spec[1], "dtype")):
            raise ValueError(f"'{text}' does not give pairs of an image and a label.")
        if not spec[1].dtype.is_integer or spec[1].shape.rank != 0:
            raise ValueError(f"'{text}' gives labels that are not class indices: {spec[1]}.")
        self._dataset = loaded
        self.count = int(loaded.cardinality())
        self.integers = bool(spec[0].dtype.is_integer)
        feature = info.features[info.supervised_keys[1]]
        self.class_names = list(feature.names) if getattr(feature, "names", None) else None

    def select(self, indices: np.ndarray, channels: int) -> Any:
        """Return the examples at `indices`, in the order of the dataset."""
        import tensorflow as tf

        if len(indices) == self.count:
            return self._dataset
        wanted = np.zeros(self.count, bool)
        wanted[indices] = True
        chosen = tf.constant(wanted)
        kept = self._dataset.enumerate().filter(lambda i, _: chosen[i])
        return kept.map(lambda _, example: example).apply(
            tf.data.experimental.assert_cardinality(len(indices))
        )
