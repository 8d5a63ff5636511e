"""Reading a report back."""

from __future__ import annotations

import os
import pathlib
from typing import Any

from keras_kd.report.derive import complete_result
from keras_kd.report.schema import SCHEMA_VERSION
from keras_kd.system.reading import read_json


def read_report(
    path: str | os.PathLike[str], relative_to: str | os.PathLike[str] | None = None
) -> dict[str, Any]:
    """Read the `report.json` that `write_report` wrote.

    Args:
        path: The JSON file, or the folder that it is in.
        relative_to: The folder from which the paths of the `.tflite` files are to be told, as that
            of a new report. Defaults to `None`: they stay relative to the JSON file's.

    Returns:
        The completed result, in the form of `keras_kd.report.schema.Result`.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is no report, or of a form that this version does not read.

    Example:

    ```python
    result = kd.report.read_report("exports/digits")
    print(kd.report.format_table(result))
    ```
    """
    file = pathlib.Path(path)
    if file.is_dir():
        file = file / "report.json"
    if not file.is_file():
        raise FileNotFoundError(
            f"There is no report '{file}'. Give the report.json that `write_report` wrote, or its "
            "folder."
        )
    try:
        content = read_json(file)
    except ValueError as error:
        raise ValueError(f"'{file}' is no report. {error}") from None
    if not isinstance(content, dict) or "schema_version" not in content:
        raise ValueError(f"'{file}' is no report of keras_kd: it has no 'schema_version'.")
    found = content["schema_version"]
    if found != SCHEMA_VERSION:
        raise ValueError(
            f"'{file}' is of schema version {found!r}, and this version of keras_kd reads "
            f"{SCHEMA_VERSION}. {_way_out(found, content.get('command'))}"
        )
    try:
        result = complete_result(content)
    except ValueError as error:
        raise ValueError(f"'{file}' is damaged. {error}") from None
    if relative_to is not None:
        for model in result["models"]:
            if model["file"] is not None:
                there = os.path.join(file.parent, model["file"]["path"])
                model["file"]["path"] = pathlib.PurePath(
                    os.path.relpath(there, relative_to)
                ).as_posix()
    return result


def _way_out(found: Any, command: Any) -> str:
    if isinstance(found, int) and found > SCHEMA_VERSION:
        return "Use a newer version of keras_kd."
    again = f": {command}" if isinstance(command, str) and command else "."
    return f"Make it again by the command that it was made with{again}"
