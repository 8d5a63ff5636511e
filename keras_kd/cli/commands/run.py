"""`keras-kd run`: runs a recipe, from data to report."""

from __future__ import annotations

import pathlib
from typing import Any

import click

from keras_kd.cli.command import Command, commands, usage_errors_of_recipe
from keras_kd.cli.console import Console, Outcome
from keras_kd.cli.recipe import read_recipe
from keras_kd.cli.shared_options import out_option

COMMAND = Command(
    "run",
    short_help="run a recipe: a whole run in one TOML file",
    help="""\
Run a recipe: a TOML file with one table per command to run, [distill], [compress], [export],
[benchmark], [measure], [report], in this order; [data] and [teaching] hold what they share. The
keys are the options of the commands, with _ for -. Several commands each write to a subfolder of
`out` and take the model of the previous one. Every command writes the recipe that repeats it,
recipe.toml, beside its result.""",
    example="""\
  keras-kd run recipe.toml
  keras-kd run runs/distill/recipe.toml --out again      # the same once more, into a new folder

  # recipe.toml
  out = "runs/pictures"
  [data]
  data = "pictures"
  scale = 255
  [teaching]
  teacher = "big.keras"
  [distill]
  student = "shrink:0.5"
  epochs = 20
  [compress]
  stages = ["prune(0.75, epochs=4)", "quantize_aware(2)"]
  [export]
  quantization = ["int8"]
  [measure]
  max_bytes = 40_000
  [report]""",
    params=(
        click.Argument(["recipe"], help="the TOML file", metavar="RECIPE"),
        out_option(None, "the folder to write into, instead of the recipe's"),
    ),
    takes_recipe=False,
)

_ORDER = (
    "demo", "check", "search", "distill", "compress", "export", "benchmark", "measure", "report",
)  # fmt: skip


@COMMAND.does
def run(settings: dict[str, Any], console: Console) -> Outcome:
    """Run the commands of a recipe, each on what the one before it made."""
    known = commands()
    tables = read_recipe(settings["recipe"], known.values())
    steps = [name for name in _ORDER if name in tables]
    if not steps:
        raise ValueError(f"'{settings['recipe']}' names no command: add a table such as [distill].")
    out = settings["out"] or tables[""].get("out")
    chain = _Chain(out, tables, len(steps) > 1)
    for name in steps:  # all are asked before the first one runs
        known[name].settings_of(tables, chain.given(name, promised=True))
    outcomes: dict[str, Outcome] = {}
    texts = []
    for name in steps:
        if len(steps) > 1:
            console.say(f"== {name}")
        command = known[name]
        settings_of_step = command.settings_of(tables, chain.given(name))
        with usage_errors_of_recipe():
            outcome = command.run(settings_of_step, console)
        outcomes[name] = outcome
        chain.add(name, outcome.result)
        texts.append(outcome.text)
    exit_code = max(outcome.exit_code for outcome in outcomes.values())
    if len(steps) == 1:
        return outcomes[steps[0]]
    result = {name: outcome.result for name, outcome in outcomes.items()}
    return Outcome(result, "\n".join(text for text in texts if text), exit_code)


class _Chain:
    """What each command is given of what the ones before it made, unless the recipe says."""

    def __init__(self, out: str | None, tables: dict[str, dict[str, Any]], several: bool) -> None:
        self._out = pathlib.Path(out or "runs/recipe") if several else out
        self._tables = tables
        self._several = several
        self._model: str | None = None
        self._exported: list[str] = []
        self._results: list[str] = []

    def given(self, name: str, promised: bool = False) -> dict[str, Any]:
        """Return the settings that follow from the earlier commands.

        Args:
            name: The command.
            promised: Whether they have not run yet, so that something stands for their results.
        """
        given: dict[str, Any] = {}
        own = self._tables.get(name, {})
        if self._several:
            given["out"] = (pathlib.Path(self._out or "") / name).as_posix()
        elif self._out is not None and name != "check":
            given["out"] = str(self._out)
        model = self._model or ("a model" if promised and self._makes_model(name) else None)
        if name == "compress":
            self._add(given, own, "student", model)
        elif name in ("export", "check", "benchmark"):
            self._add(given, own, "model", model)
        elif name == "measure":
            self._add(given, own, "model", model or self._tables.get("export", {}).get("model"))
            self._add(given, own, "teacher", self._tables.get("teaching", {}).get("teacher"))
            exported = promised and "export" in self._tables
            self._add(given, own, "files", self._exported or (["a file"] if exported else None))
            if self._several and self._held_out() and "part" not in own:
                given["part"] = "validation"
        elif name == "report":
            self._add(given, own, "results", self._results or (["a result"] if promised else None))
        return given

    @staticmethod
    def _add(given: dict[str, Any], own: dict[str, Any], key: str, value: Any) -> None:
        if key not in own and value is not None:
            given[key] = value

    def _makes_model(self, name: str) -> bool:
        earlier = _ORDER[: _ORDER.index(name)]
        return any(step in self._tables for step in ("distill", "compress") if step in earlier)

    def _held_out(self) -> bool:
        """Whether measuring is to be on what was held out, and not on a split `test`."""
        if "data" not in self._tables.get("data", {}):
            return False
        data = str(self._tables["data"]["data"])
        named = not pathlib.Path(data).exists() and ":" not in data
        return not named or "validation_data" in self._tables["data"]

    def add(self, name: str, result: dict[str, Any]) -> None:
        """Remember what a command made."""
        if name in ("distill", "compress"):
            self._model = str(result["model"])
        if name == "export":
            self._exported = [str(file["file"]) for file in result["files"]]
            self._model = str(result["model"])
        if self._several and name in ("distill", "compress", "export", "measure"):
            self._results.append((pathlib.Path(self._out or "") / name / "result.json").as_posix())
