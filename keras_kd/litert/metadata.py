"""The JSON beside a TFLite file: what `export_tflite` knew of it, and the names of its tensors."""

from __future__ import annotations

import hashlib
import os
import pathlib
from typing import Any

from keras_kd.litert.model_file import ModelFile
from keras_kd.system.reading import read_json
from keras_kd.system.user_warning import warn_user


def metadata_path(path: str | os.PathLike[str]) -> pathlib.Path:
    """Return where the JSON of a file is: `student.tflite.json` beside `student.tflite`."""
    path = pathlib.Path(path)
    return path.with_name(f"{path.name}.json")


def read_metadata(path: str | os.PathLike[str]) -> dict[str, Any] | None:
    """Return the JSON that `export_tflite` wrote beside a file.

    The keys are `format` (`"keras_kd.tflite"`), `schema_version` (1), `file` (its name), `bytes`,
    `sha256`, `quantization`, `excluded` (the precision of layers that do not have the file's own,
    by path), `kernels_in_4_bits` (of an int4 file: `layers`, `output`, `error`, `bits` and
    `clipped` of every kernel that could have 4 bits), `class_names` (or `None`), `preprocessing`
    (or `None`), `inputs` and `outputs` (of the first signature; each with `name`, `shape`, `dtype`,
    `scale` and `zero_point`; a size of any value, and a scale where there is none, is `None`),
    `signatures` (the same by the signature's name), `operators` (counts by name), `flex_operators`
    (names), `was_run` (whether it was run before it was written, which is not possible with flex
    operators where TensorFlow comes without its Flex delegate), `calibration` (`samples`,
    `batches`, `missing_classes`, `ranges`: the way that was taken, `tried`: the ways that were
    compared; or `None`), `fidelity` (what `keras_kd.Fidelity` holds, with `None` for infinite
    numbers; `None` where it was not measured), `sparse_tensors`, `tensor_names` (a list for each
    graph, with the name of each of its tensors, which the file itself does not hold) and
    `versions`.

    Args:
        path: The `.tflite` file.

    Returns:
        The JSON's content; `None` if there is no JSON, or if it describes another file.

    Raises:
        FileNotFoundError: If there is no file at `path`.

    Example:

    ```python
    names = keras_kd.read_metadata("exports/student.tflite")["class_names"]
    ```
    """
    return described(path, pathlib.Path(path).read_bytes())


def described(
    path: str | os.PathLike[str],
    content: bytes,
    *,
    without_checksum: bool = False,
    warn: bool = True,
) -> dict[str, Any] | None:
    """Return the JSON beside a file if it was written for it; see `read_metadata`.

    Args:
        path: The file.
        content: Its bytes.
        without_checksum: Whether a JSON that does not say which file it is for is taken, too.
            Defaults to `False`.
        warn: Whether to warn of a JSON that is not used. Defaults to `True`.
    """
    beside = metadata_path(path)
    try:
        found = read_json(beside)
        known = found.get("sha256") if isinstance(found, dict) else ""
        if known == hashlib.sha256(content).hexdigest() or (without_checksum and known is None):
            return dict(found)
    except FileNotFoundError:
        return None
    except (OSError, ValueError):
        pass
    if warn:
        warn_user(
            f"'{beside}' is not used: it describes another file than '{path}', which was changed "
            "or overwritten since. Export the model again."
        )
    return None


def open_file(path: str | os.PathLike[str], content: bytes | None = None) -> ModelFile:
    """Open a file, with the names of its tensors from the JSON beside it where it lacks them.

    Args:
        path: The file.
        content: Its bytes. Defaults to `None`: they are read.

    Raises:
        ValueError: If it is not a complete TFLite file.
    """
    content = pathlib.Path(path).read_bytes() if content is None else content
    file = ModelFile(content)
    if not file.has_names and (found := described(path, content, warn=False)):
        file.set_names(found.get("tensor_names"))
    return file


def without_names(path: str | os.PathLike[str]) -> str:
    """Return that a file's layers are not known, and what to do."""
    return (
        f"The layers of '{path}' are not known: it holds no names of inner tensors, and "
        f"there is no '{metadata_path(path).name}' beside it that was written for it. Received: "
        f"path='{path}'. Put that JSON, which export_tflite wrote, beside the file, or export the "
        "model again with `keep_names=True`."
    )
