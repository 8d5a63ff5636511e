"""The search for the layers of a file that need more bits."""

from __future__ import annotations

import dataclasses
import json
import math
import pathlib
import tempfile
from collections.abc import Mapping, Sequence
from typing import Any

from keras_kd.export.calibration import Samples
from keras_kd.export.exclusion import FORMS
from keras_kd.export.fidelity import Expected
from keras_kd.litert.runtime import LiteRuntime
from keras_kd.measuring.answers import REGRESSION, by_output, likely_task
from keras_kd.measuring.differences import Differences
from keras_kd.measuring.positions import Positions
from keras_kd.measuring.scores import Scores
from keras_kd.measuring.selection import file_end
from keras_kd.planning.mixed_files import MixedFiles
from keras_kd.system.files import write_json
from keras_kd.system.reading import read_json

# So many samples tell which layers suffer; more would take longer and order them no better.
_SENSITIVE = 64
# A layer that 16 bits cure loses less than this part of its noise in 8.
_CURED = 0.1
# Layers with a smaller part of all noise are not looked at again.
_NEGLIGIBLE = 1e-3


@dataclasses.dataclass(frozen=True)
class Figures:
    """What one set of kernels computes: shares of equal and of right answers."""

    samples: int
    agreement: float
    accuracy: float | None
    model_accuracy: float | None

    @property
    def lost(self) -> float | None:
        """The share of right answers that the file loses, `None` without labels."""
        if self.accuracy is None or self.model_accuracy is None:
            return None
        return self.model_accuracy - self.accuracy

    def spare(self, limit: Mapping[str, float], errors: float = 0.0) -> float:
        """Return how far within a limit it is, less so many standard errors.

        Where no answer differs, the error is that of one: few samples do not tell more. Beside
        errors, a gain of accuracy counts as none: it is as much chance as they are.
        """
        differ = max(1.0 - self.agreement, 1.0 / self.samples)
        errors = errors if slack(limit) > 0.0 else 0.0
        if "min_agreement" in limit:
            error = math.sqrt(differ * (1.0 - differ) / self.samples)
            spare = self.agreement - errors * error - limit["min_agreement"]
        else:
            if (lost := self.lost) is None:
                raise no_labels(limit["max_drop"])
            lost = max(lost, 0.0) if errors else lost
            spare = limit["max_drop"] / 100 - lost - errors * math.sqrt(differ / self.samples)
        # At the limit is within it; shares of a count are not exact in binary.
        return round(spare, 9)


def measure_answers(expected: Expected, path: Any, xnnpack: bool | None) -> list[Figures]:
    """Measure all outputs of a file.

    Raises:
        ValueError: If one of them does not give classes.
    """
    runtime = LiteRuntime(path, xnnpack=xnnpack)
    names = runtime.output_names
    of_model = expected.source.ends()
    ends = [file_end(runtime.file, i) or of_model.get(name) for i, name in enumerate(names)]
    scores = [Scores(name, end) for name, end in zip(names, ends, strict=True)]
    positions = [Positions(i) for i in range(len(names))]
    for batch, outputs, masks in expected:
        answers = runtime.predict(batch.inputs)
        labels = by_output(batch.y, names, "labels", others=True)
        weights = by_output(batch.sample_weight, names, "sample weights", others=True, alone=None)
        mask = [masks.get(name) for name in names]
        floats = [x for x in batch.inputs.values() if x.dtype.kind == "f"]
        for i, (name, score) in enumerate(zip(names, scores, strict=True)):
            counted = positions[i].counted(batch, outputs[name], mask, weights)
            if score.task is None:
                of_errors = expected.source.minimizes_errors(name)
                score.task = likely_task(outputs[name], labels[i], ends[i], floats, of_errors, True)
            label = None if score.task == REGRESSION else labels[i]
            score.add(answers[name].reshape(outputs[name].shape), label, outputs[name], counted)
    size = len(expected.samples)
    found = []
    for score in scores:
        if score.agreement is None:
            raise ValueError(
                f"`quantize_within` compares answers, but output '{score.name}' is not "
                "classes. Use keras_kd.export_tflite(..., exclude=) and keras_kd.compare."
            )
        found.append(Figures(size, score.agreement, score.accuracy, score.model_accuracy))
    return found


def no_labels(max_drop: float) -> ValueError:
    """Return the error of a limit on the accuracy without labels."""
    return ValueError(
        "`max_drop` is about the accuracy, and `data` has no labels. Received: "
        f"max_drop={max_drop}. Give data of (x, y), or use `min_agreement`."
    )


def slack(limit: Mapping[str, float]) -> float:
    """Return the share of answers that a limit lets differ."""
    return 1.0 - limit["min_agreement"] if "min_agreement" in limit else limit["max_drop"] / 100


class Record:
    """Everything measured so far, in a file; nothing is measured twice, also after a kill."""

    def __init__(self, path: pathlib.Path, settings: dict[str, Any]) -> None:
        self._path = path
        self._content: dict[str, Any] = {"settings": settings, "noise": {}, "tried": {}}
        if path.exists():
            try:
                found = read_json(path)
            except ValueError:
                found = None
            if isinstance(found, dict) and found.get("settings") == settings:
                self._content = {**self._content, **found}

    def __len__(self) -> int:
        """Return the number of files that were measured."""
        return len(self._content["tried"])

    def known(self, table: str, key: str, measure: Any) -> Any:
        """Return a value of a table, measured where it is not known."""
        if key not in self._content[table]:
            self._content[table][key] = measure()
            self._write()
        return self._content[table][key]

    def forget(self, table: str, key: str) -> None:
        """Let a value be measured again."""
        del self._content[table][key]

    def finish(self, result: dict[str, Any]) -> None:
        """Write the result beside what led to it."""
        self._content["result"] = result
        self._write()

    def _write(self) -> None:
        write_json(self._path, self._content)


class Search:
    """The search for the layers that need more bits.

    Attributes:
        within: Whether the file that was found keeps to the limit; known after `run`.
    """

    def __init__(
        self,
        files: MixedFiles,
        expected: Expected,
        limit: Mapping[str, float],
        record: Record,
        verbose: bool,
    ) -> None:
        self._files = files
        self._expected = expected
        self._limit = limit
        self._verbose = verbose
        self.record = record
        self.within = True
        few = expected.samples.batches[: max(_SENSITIVE // expected.samples.batches[0].size, 1)]
        self._few = Expected(expected.source, Samples(few))

    def run(self) -> dict[int, str]:
        """Return the form of every unit that does not have the file's own."""
        if self._verbose and len(self.record):
            print(f"{len(self.record)} files were measured before; they are not measured again.")
        if self._holds({}):
            return {}
        noise = {i: self.noise(i, self._files.quantization) for i in self._files.units}
        total = sum(noise.values())
        ranked = sorted((i for i in noise if noise[i] > 0), key=lambda i: -noise[i])
        forms = {i: self._cure(i, noise[i], total) for i in ranked}

        def first(count: int) -> dict[int, str]:
            return {i: forms[i] for i in ranked[:count]}

        count = 1
        while count < len(ranked) and not self._holds(first(count)):
            count *= 2
        high = min(count, len(ranked))
        if not self._holds(first(high)):  # what remains is the noise of the middle precision
            floats = dict.fromkeys(self._files.units, "float32")
            if self._holds(floats):
                return self._taken_back(floats)
            self.within = False
            return max(({}, first(high), floats), key=self._spare)
        low = high // 2 if high > 1 else 0
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (low, middle) if self._holds(first(middle)) else (middle, high)
        return self._taken_back(first(high))

    def noise(self, unit: int, form: str) -> float:
        """Return the mean square of the outputs' relative error if only a unit has a form."""

        def measure() -> float:
            return _noise(self._few, self._files.alone(unit, form))

        return float(self.record.known("noise", f"{self._files.name(unit)}: {form}", measure))

    def _cure(self, unit: int, noise: float, total: float) -> str:
        finer = FORMS[self._files.quantization]
        for form in finer[:-1]:
            looked_at = form in self._files.forms and noise > _NEGLIGIBLE * total
            if looked_at and self.noise(unit, form) < _CURED * noise:
                return form
        return finer[-1]

    def _taken_back(self, forms: dict[int, str]) -> dict[int, str]:
        """Give units fewer bits again where the limit still holds, those with most work first."""
        cheaper = [None, *FORMS[self._files.quantization][:-1]]
        for unit in sorted(forms, key=self._files.operations, reverse=True):
            for form in cheaper:
                if form == forms[unit] or (form is not None and form not in self._files.forms):
                    break
                tried = {k: v for k, v in {**forms, unit: form}.items() if v is not None}
                if self._holds(tried, errors=2.0):  # of many that are tried, some hold by chance
                    forms = tried
                    break
        return forms

    def _holds(self, forms: Mapping[int, str], errors: float = 1.0) -> bool:
        """Whether a file keeps to the limit, with some standard errors to spare."""
        return self._spare(forms, errors) >= 0

    def _spare(self, forms: Mapping[int, str], errors: float = 1.0) -> float:
        """Return how far within the limit a file is, less some standard errors."""
        key = json.dumps({self._files.name(i): forms[i] for i in sorted(forms)})

        def measure() -> list[list[Any]]:
            found: list[list[Any]] = []
            with tempfile.TemporaryDirectory() as folder:
                path = pathlib.Path(folder) / "tried.tflite"
                path.write_bytes(self._files.mixed(forms))
                for xnnpack in (None, False):
                    figures = measure_answers(self._expected, path, xnnpack)
                    found.append([dataclasses.astuple(output) for output in figures])
                    if self._worst(figures, 1.0) < 0:
                        break
            if self._verbose:
                layers = f"{len(forms)} of {len(self._files.units)} layers in more bits"
                worst = min(agreement for rows in found for _, agreement, *_ in rows)
                print(f"{layers}: {worst:.2%} of the model's answers")
            return found

        def known() -> list[list[Figures]]:
            of_kernels = self.record.known("tried", key, measure)
            return [[Figures(*row) for row in outputs] for outputs in of_kernels]

        figures = known()
        if len(figures) < 2 and self._worst(figures[0], 1.0) >= 0:  # it failed a tighter limit
            self.record.forget("tried", key)
            figures = known()
        return min(self._worst(outputs, errors) for outputs in figures)

    def _worst(self, outputs: Sequence[Figures], errors: float) -> float:
        return min(output.spare(self._limit, errors) for output in outputs)


def _noise(expected: Expected, content: bytes) -> float:
    """Return the mean square of the error of all outputs, each divided by its variance."""
    found: dict[str, Differences] = {}
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder) / "alone.tflite"
        path.write_bytes(content)
        runtime = LiteRuntime(path, xnnpack=None)
        for batch, outputs, _ in expected:
            for name, given in runtime.predict(batch.inputs).items():
                exact = outputs[name]
                found.setdefault(name, Differences()).add(exact, given.reshape(exact.shape))
    noise = sum((differences.relative_error or 0.0) ** 2 for differences in found.values())
    return noise if math.isfinite(noise) else 1e6  # JSON holds no infinity
