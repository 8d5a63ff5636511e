"""The folder of a command's run: new, resumed, or refused because it holds another run."""

from __future__ import annotations

import contextlib
import os
import pathlib
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from keras_kd.cli.command import Command
from keras_kd.cli.console import Console
from keras_kd.cli.recipe import recipe_text, tables_of
from keras_kd.system.arguments import with_added
from keras_kd.system.files import atomic_path, check_writable, sha256, write_json
from keras_kd.system.folder_lock import held_folder
from keras_kd.system.json_values import plain
from keras_kd.system.reading import read_json

FORMAT = "keras_kd.cli 1"
# What may differ when a run is resumed.
_FREE = ("out",)


class OutFolder:
    """The folder of one run of a command.

    It holds `recipe.toml`, which repeats the run, and `result.json`: `"format"`, `"command"`,
    `"settings"`, `"files"` (the SHA-256 of each file of a model or of data that the run read) and
    `"result"`, which is null until the run is done.

    Args:
        command: The command.
        settings: Its settings; `"out"` is the folder.
        files: Model files that the run reads.

    Raises:
        ValueError: If the folder holds another run, or anything else.
        OSError: If it cannot be written to, another process is at work in it, or a file cannot be
            read.
    """

    def __init__(
        self, command: Command, settings: Mapping[str, Any], files: Iterable[str | None] = ()
    ) -> None:
        self.path = pathlib.Path(settings["out"])
        self._recipe = recipe_text(tables_of(command, settings))
        record = check_writable(self.path / "result.json")
        files = [*files, *_data_files(settings)]
        self._defaults = {param.name: param.default for param in command.settings}
        self._content: dict[str, Any] = {
            "format": FORMAT,
            "command": command.name,
            "settings": {
                key: value
                for key, value in settings.items()
                if key not in _FREE and value is not None and value != []
            },
            "files": {_name(file): sha256(file) for file in files if file is not None},
            "result": None,
        }
        # Held until the run is finished or has failed, and at the latest as long as this object.
        with contextlib.ExitStack() as held:
            held.enter_context(held_folder(self.path))
            if record.exists():
                self._content["result"] = self._read(record).get("result")
            elif found := sorted(e.name for e in self.path.iterdir() if e.name[0] != "."):
                raise ValueError(
                    f"'{self.path}' is not empty ('{found[0]}') and holds no run of keras-kd. "
                    "Give a new folder: --out NEW_FOLDER."
                )
            self._held = held.pop_all()

    @contextlib.contextmanager
    def begun(self) -> Iterator[None]:
        """Record whose folder it is; remove the record if only an error came of it."""
        if not (self.path / "result.json").exists():
            self._write()
        if not (self.path / "recipe.toml").exists():
            with atomic_path(self.path / "recipe.toml") as temporary:
                temporary.write_text(self._recipe, encoding="utf-8")
        try:
            yield
        except Exception:
            self._held.close()
            own = [self.path / "recipe.toml", self.path / "result.json"]
            if all(entry in own for entry in self.path.iterdir()):
                for entry in own:
                    entry.unlink(missing_ok=True)
            raise

    def _read(self, record: pathlib.Path) -> dict[str, Any]:
        try:
            kept: dict[str, Any] = read_json(record)
            known = kept["format"] == FORMAT
        except (ValueError, KeyError, TypeError):
            known = False
        if not known:
            raise ValueError(
                f"'{record}' is not a record of this version of keras-kd. Give a new folder: "
                "--out NEW_FOLDER."
            )
        differing = self._differences(kept)
        if differing:
            raise ValueError(
                f"'{self.path}' holds another run, which differs in {'; '.join(differing)}. Give "
                "another folder with --out NEW_FOLDER, or remove that one."
            )
        return kept

    def _differences(self, kept: Mapping[str, Any]) -> list[str]:
        if kept["command"] != self._content["command"]:
            return [f"the command ({kept['command']} there, {self._content['command']} here)"]
        found = []
        ours = self._content["settings"]
        theirs = with_added(kept["settings"], ours, self._defaults)
        for key in [*ours, *(key for key in theirs if key not in ours)]:
            before, now = theirs.get(key), ours.get(key)
            if before != now:
                found.append(f"`{key}` ({before!r} there, {now!r} here)")
        for name, digest in self._content["files"].items():
            if kept["files"].get(name, digest) != digest:
                found.append(f"the contents of '{name}'")
        return found

    @property
    def result(self) -> dict[str, Any] | None:
        """The result, if the run is done."""
        result: dict[str, Any] | None = self._content["result"]
        return result

    def done(self, console: Console) -> dict[str, Any] | None:
        """Return the result of a run that is done, and say so; `None` if it is not."""
        if self.result is not None:
            self._held.close()
            console.say(f"'{self.path}' is done already.")
        return self.result

    def finish(self, result: Mapping[str, Any]) -> dict[str, Any]:
        """Keep the result, and return it as JSON gives it back."""
        self._content["result"] = plain(dict(result))
        self._write()
        self._held.close()
        return dict(self._content["result"])

    def _write(self) -> None:
        write_json(self.path / "result.json", self._content)


def _name(file: str | os.PathLike[str]) -> str:
    """Return the name of a file, or of all in a folder: earlier versions knew sizes by its name."""
    return os.path.join(file, "**") if os.path.isdir(file) else os.fspath(file)


def _data_files(settings: Mapping[str, Any]) -> list[str]:
    """Return the files and folders of data among the settings; others are names of datasets."""
    texts = [settings.get(key) for key in ("data", "validation_data", "test_data")]
    return [text for text in texts if text is not None and os.path.exists(text)]
