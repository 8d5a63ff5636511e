"""Writing the report: `report.html` and `report.json`, each whole or not at all."""

from __future__ import annotations

import json
import os
import pathlib
from collections.abc import Mapping
from typing import Any

from keras_kd.report.derive import complete_result
from keras_kd.report.page import render_page
from keras_kd.system.files import atomic_path, check_writable


def write_report(
    result: Mapping[str, Any], folder: str | os.PathLike[str]
) -> tuple[pathlib.Path, pathlib.Path]:
    """Write the page and the JSON file of a result into `folder`.

    Both files hold the same numbers. The page is one self-contained file: it asks for nothing
    over the network. Killed while writing, neither name holds half a file.

    Args:
        result: A dict in the form of `keras_kd.report.schema.Result`. Derived keys may be absent.
            The path of a `.tflite` file is relative to `folder`, or, where no such file is there,
            to the working directory.
        folder: Where `report.html` and `report.json` go. It is created if it is missing.

    Returns:
        The paths of the HTML page and of the JSON file.

    Raises:
        TypeError: If `result` is not a dict.
        ValueError: If keys of `result` are missing.
        OSError: If the files cannot be written.

    Example:

    ```python
    page, numbers = kd.report.write_report(result, "exports/digits")
    ```
    """
    full = complete_result(result)
    _tell_paths_from(full, pathlib.Path(folder))
    page = check_writable(pathlib.Path(folder) / "report.html")
    numbers = check_writable(pathlib.Path(folder) / "report.json")
    html = render_page(full)
    text = json.dumps(full, indent=1, ensure_ascii=False, allow_nan=False) + "\n"
    for path, content in ((page, html), (numbers, text)):
        with atomic_path(path) as temporary:
            temporary.write_text(content, encoding="utf-8")
    return page, numbers


def _tell_paths_from(result: dict[str, Any], folder: pathlib.Path) -> None:
    """Make the paths of the files relative to the report's folder."""
    for model in result["models"]:
        if model["file"] is None:
            continue
        path = pathlib.Path(model["file"]["path"])
        if path.is_absolute() or (path.is_file() and not (folder / path).is_file()):
            path = pathlib.Path(os.path.relpath(path, folder))
        model["file"]["path"] = path.as_posix()
