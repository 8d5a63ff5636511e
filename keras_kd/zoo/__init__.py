"""Small students that are ready to use, each with the recipe that made it."""

from __future__ import annotations

import dataclasses
import functools
import json
import os
import pathlib
from typing import Any

import keras
import numpy as np

from keras_kd.litert.metadata import read_metadata
from keras_kd.system.files import check_writable, sha256
from keras_kd.system.names import one_of

__all__ = ["ZooStudent", "load", "names"]

REPOSITORY = "keras-kd/keras_kd"  # the project's address on GitHub
_ADDRESS = f"https://raw.githubusercontent.com/{REPOSITORY}/main/zoo"
_INDEX = pathlib.Path(__file__).with_name("index.json")
_CHECKOUT = pathlib.Path(__file__).parents[2] / "zoo"


@dataclasses.dataclass(frozen=True)
class ZooStudent:
    """A student of the zoo, on this machine.

    Attributes:
        name: Its name in the zoo.
        path: The TFLite file.
        metadata: What stands in the JSON beside the file; see `kd.read_metadata`.
        task: What it does, and on which data.
        inputs: What the file takes, with the range of the numbers.
        metric: Name of the metric, such as `"accuracy"`.
        value: The metric of the file on all test samples.
        interval: The 95 % interval of the value, or `None` where it was not computed.
        samples: How many test samples there were.
        recipe: The command that made it, from a checkout of the repository.
    """

    name: str
    path: pathlib.Path
    metadata: dict[str, Any] = dataclasses.field(repr=False)
    task: str
    inputs: str
    metric: str
    value: float
    interval: tuple[float, float] | None
    samples: int
    recipe: str

    @functools.cached_property
    def student(self) -> keras.Model:
        """The `keras.Model` that the file was made of. Loading it runs no code from the file."""
        from keras_kd.models.opening import open_model

        return open_model(self.path.with_name("student.keras"))

    @functools.cached_property
    def sample(self) -> tuple[Any, np.ndarray[Any, Any]]:
        """A few test samples: an array of inputs (a dict of arrays for several) and the labels."""
        with np.load(self.path.with_name("sample.npz")) as arrays:
            given = dict(arrays)
        labels = given.pop("labels")
        return (given["inputs"] if list(given) == ["inputs"] else given), labels


def names() -> list[str]:
    """Return the names of all students in the zoo."""
    return sorted(_index())


def load(name: str, folder: str | os.PathLike[str] | None = None) -> ZooStudent:
    """Return a student of the zoo; its files are downloaded when they are first asked for.

    In a checkout of the repository nothing is downloaded. Each file is compared with its SHA-256,
    which the installed package holds.

    Args:
        name: One of `kd.zoo.names()`.
        folder: Where downloaded files are kept. Defaults to `None`, which stands for
            `keras_kd_zoo` in Keras's own folder of downloads.

    Returns:
        A `ZooStudent`.

    Raises:
        ValueError: If there is no student of this name, or a file is not the one that the package
            was made with.
        FileNotFoundError: If a file is absent and cannot be downloaded.

    Example:

    ```python
    student = kd.zoo.load("digits_5kb")
    print(student.inputs)
    kd.evaluate_tflite(student.path, student.sample, runs=1)
    student.student.summary()
    ```
    """
    one_of("name", name, names(), "kd.zoo.load")
    entry = dict(_index()[name])
    paths = {
        file: _found(name, file, digest, folder) for file, digest in entry.pop("files").items()
    }
    path = paths["student.tflite"]
    interval = entry.pop("interval")
    return ZooStudent(
        name=name,
        path=path,
        metadata=read_metadata(path) or {},
        interval=None if interval is None else tuple(interval),
        **{
            field: entry[field]
            for field in ("task", "inputs", "metric", "value", "samples", "recipe")
        },
    )


@functools.cache
def _index() -> dict[str, dict[str, Any]]:
    content: dict[str, dict[str, Any]] = json.loads(_INDEX.read_text(encoding="utf-8"))
    return content


def _found(
    name: str, file: str, digest: str, folder: str | os.PathLike[str] | None
) -> pathlib.Path:
    """Return where a file is on this machine, downloaded if need be and compared."""
    path = _CHECKOUT / name / file
    if not path.is_file() or folder is not None:
        path = _downloaded(name, file, digest, folder)
    found = sha256(path)
    if found != digest:
        raise ValueError(
            f"'{path}' is not the file that this version of keras_kd lists: its SHA-256 is "
            f"{found}, not {digest}. Restore it, or call `kd.zoo.load` with another `folder=` to "
            f"download it. Received: name={name!r}."
        )
    return path


def _downloaded(
    name: str, file: str, digest: str, folder: str | os.PathLike[str] | None
) -> pathlib.Path:
    address = f"{_ADDRESS}/{name}/{file}"
    if folder is not None:  # where Keras cannot write, it takes another one
        folder = pathlib.Path(folder).expanduser()
        check_writable(folder / "keras_kd_zoo" / name / file)
    try:
        return pathlib.Path(
            keras.utils.get_file(
                origin=address,
                file_hash=digest,
                hash_algorithm="sha256",
                cache_subdir=f"keras_kd_zoo/{name}",
                cache_dir=None if folder is None else os.fspath(folder),
            )
        )
    except Exception as error:  # Keras raises a bare `Exception` where a download fails
        raise FileNotFoundError(
            f"'{file}' of '{name}' is not on this machine and cannot be downloaded from {address}: "
            f"{error}. In a checkout of the repository the files are in `zoo/`."
        ) from error
