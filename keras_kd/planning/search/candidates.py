"""The candidates of a search: students, ways of teaching, stages and formats."""

from __future__ import annotations

import copy
import dataclasses
import functools
import hashlib
import importlib.util
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import keras

from keras_kd import losses
from keras_kd.compression.clustering.cluster import Cluster
from keras_kd.compression.compress import copy_model
from keras_kd.compression.pruning.prune import Prune
from keras_kd.compression.quantizing.quantize_aware import QuantizeAware
from keras_kd.compression.running.described import as_plan
from keras_kd.compression.running.student_files import config_of
from keras_kd.compression.shrinking.shrink_model import shrink
from keras_kd.compression.stages.order import check_order, check_stages
from keras_kd.compression.stages.stage import Stage
from keras_kd.export.tflite import QUANTIZATIONS
from keras_kd.models.layers import hash_of_architecture, identity_of
from keras_kd.models.probabilities import PROBABILITIES, answers_each_unit, last_activation
from keras_kd.system.arguments import number
from keras_kd.system.names import one_of

Make = Callable[[], keras.Model]
# Temperature, and weight of the loss on labels.
_TEACHINGS = ((1.0, 0.1), (4.0, 0.1), (4.0, 0.5))


def seed_of(*parts: Any) -> int:
    """Return a seed that is a function of `parts` alone, whatever was run before."""
    digest = hashlib.blake2b(repr(parts).encode(), digest_size=4).digest()
    return int.from_bytes(digest, "big") % 2**31


@dataclasses.dataclass(frozen=True)
class Candidate:
    """One choice of everything, each by its name.

    Attributes:
        student: Name of the student.
        teaching: Name of the way of teaching.
        stages: Name of the list of stages.
        quantization: Format of the file.
    """

    student: str
    teaching: str
    stages: str
    quantization: str

    @property
    def file(self) -> str:
        """What decides on the size of the file."""
        return " | ".join((self.student, self.stages, self.quantization))

    def __str__(self) -> str:
        """Return all names in one line."""
        return ", ".join((self.student, self.teaching, self.stages, self.quantization))


def folder_name(*parts: Any) -> str:
    """Return a name of a folder that tells the parts, and differs wherever one of them does."""
    text = re.sub(r"[^a-z0-9]+", "-", " ".join(map(str, parts)).lower()).strip("-")
    return f"{text[:80]}-{seed_of(*parts):08x}"


@dataclasses.dataclass
class Space:
    """All that is searched.

    Attributes:
        students: A function that makes each student, by name. It always gives the same weights.
        teachings: Arguments of `Distiller` by name.
        stages: Stages by name.
        pairs: Name of the stages and format of the file, of those that go together.
        skipped: Sentences on students that cannot be made.
    """

    students: dict[str, Make]
    teachings: dict[str, dict[str, Any]]
    stages: dict[str, list[Stage]]
    pairs: list[tuple[str, str]]
    skipped: list[str]

    def candidates(self, teaching: str) -> list[Candidate]:
        """Return the candidates of one way of teaching, those of the widest student first."""
        return [
            Candidate(student, teaching, stages, quantization)
            for student in self.students
            for stages, quantization in self.pairs
        ]

    def all_candidates(self) -> list[Candidate]:
        """Return the candidates of all ways of teaching."""
        return [candidate for way in self.teachings for candidate in self.candidates(way)]

    def distiller_arguments(self, teaching: str) -> dict[str, Any]:
        """Return the arguments of `Distiller`, with losses that no other distiller has."""
        arguments = dict(self.teachings[teaching])
        arguments["distillation_losses"] = copy.deepcopy(arguments["distillation_losses"])
        return arguments

    def described(self) -> dict[str, Any]:
        """Return all choices as JSON can hold them; students by hashes."""
        content: dict[str, Any] = as_plan(
            {
                "students": {name: identity_of(make()) for name, make in self.students.items()},
                "teachings": self.teachings,
                "stages": {name: configs_of_stages(stages) for name, stages in self.stages.items()},
                "pairs": self.pairs,
            }
        )
        return content


def configs_of_stages(stages: Sequence[Stage]) -> list[dict[str, Any]]:
    """Return the classes of stages and their arguments."""
    return [{"class": type(stage).__name__, "config": config_of(stage)} for stage in stages]


def make_space(
    teacher: Any,
    students: Any,
    widths: Sequence[float],
    depths: Sequence[float],
    teachings: Mapping[str, Mapping[str, Any]] | None,
    stages: Mapping[str, Sequence[Stage]] | None,
    formats: Sequence[str],
    epochs: int,
    zipped: bool,
    seed: int,
    loss: Any = None,
) -> Space:
    """Return what is searched, from the arguments of `search`.

    Raises:
        TypeError: If an argument is of the wrong kind.
        ValueError: If there is no student, a name occurs twice, or an argument is refused by what
            it is for.
    """
    made, skipped = _students(teacher, students, widths, depths, seed)
    if stages is None:
        stages = _default_stages(epochs, zipped, formats)
    if not isinstance(stages, Mapping) or not stages:
        raise TypeError(
            "`stages` must be a dict of lists of stages by name, such as "
            '{"none": [], "8 bits": [kd.QuantizeAware(2)]}. '
            f"Received: stages={stages!r}."
        )
    lists = {name: check_stages(given) if given else [] for name, given in stages.items()}
    for given in lists.values():
        check_order(given)
    if teachings is None:
        teachings = _default_teachings(next(iter(made.values()))(), loss)
    if not isinstance(teachings, Mapping) or not teachings:
        raise TypeError(
            "`teachings` must be a dict of arguments of `Distiller` by name, such as "
            '{"gentle": {"distillation_losses": kd.losses.KLDivergence(4.0)}}. '
            f"Received: teachings={teachings!r}."
        )
    ways = {
        name: {"distillation_losses": losses.KLDivergence(temperature=4.0), **given}
        for name, given in teachings.items()
    }
    pairs = [(name, form) for name, given in lists.items() for form in _formats(given, formats)]
    if not pairs:
        raise ValueError(f"`formats` is empty: give at least one of {list(QUANTIZATIONS)}.")
    return Space(made, ways, lists, pairs, skipped)


def _students(
    teacher: Any, students: Any, widths: Sequence[float], depths: Sequence[float], seed: int
) -> tuple[dict[str, Make], list[str]]:
    if isinstance(students, keras.Model):
        students = [students]
    if isinstance(students, (list, tuple)):
        if not students or not all(isinstance(model, keras.Model) for model in students):
            raise TypeError(
                "`students` must hold keras.Models. "
                f"Received: students={[type(model).__name__ for model in students]}."
            )
        names = [model.name for model in students]
        if len(set(names)) < len(names):
            raise ValueError(
                f"The students must have different names. Received: {', '.join(names)}."
            )
        return {model.name: functools.partial(copy_model, model) for model in students}, []
    if students is None and not isinstance(teacher, keras.Model):
        raise TypeError(
            "Students are shrunk out of the teacher, which must be a keras.Model for it. "
            f"Received: teacher={type(teacher).__name__}. Pass `students=`, a function "
            "`build(width, depth)` or a list of models."
        )
    if students is not None and not callable(students):
        raise TypeError(
            "`students` must be None, a function `build(width, depth)` or a list of keras.Models. "
            f"Received: students={students!r}."
        )
    for name, values in (("widths", widths), ("depths", depths)):
        if not values:
            raise ValueError(f"`{name}` is empty: give at least one number.")
        for value in values:
            number(name, value, above=0, most=1 if students is None else None)
    made: dict[str, Make] = {}
    skipped, kinds = [], set()
    for width in sorted(set(widths), reverse=True):
        for depth in sorted(set(depths), reverse=True):
            name = (
                f"width {width:g}, depth {depth:g}" if len(set(depths)) > 1 else f"width {width:g}"
            )
            if students is None:
                make: Make = functools.partial(_shrunk, teacher, width, depth)
            else:
                make = functools.partial(_built, students, width, depth, seed_of(seed, name))
            try:
                model = make()
            except ValueError as error:
                if students is not None:
                    raise
                skipped.append(f"'{name}' is left out: {error}")
                continue
            shape = tuple(tuple(weight.shape) for weight in model.weights)
            kind = shape, hash_of_architecture(model)
            if kind not in kinds:
                kinds.add(kind)
                made[name] = make
    if not made:
        raise ValueError(f"No student can be made. {' '.join(skipped)}")
    return made, skipped


def _shrunk(teacher: keras.Model, width: float, depth: float) -> keras.Model:
    options: dict[str, Any] = {
        name: round(1 - part, 6) for name, part in (("ratio", width), ("depth", depth)) if part < 1
    }
    return shrink(teacher, **options) if options else copy_model(teacher)


def _built(build: Callable[..., Any], width: float, depth: float, seed: int) -> keras.Model:
    keras.utils.set_random_seed(seed)
    model = build(width, depth)
    if not isinstance(model, keras.Model) or not model.built:
        raise TypeError(
            "`students` must return a built keras.Model. "
            f"Received: students({width:g}, {depth:g})={model!r}."
        )
    return model


def _default_teachings(student: keras.Model, student_loss: Any) -> dict[str, dict[str, Any]]:
    outputs = keras.tree.flatten(student.outputs or [])
    if len(outputs) != 1:
        raise ValueError(
            f"The students have {len(outputs)} outputs, for which no way of teaching is known. "
            "Pass `teachings=`, a dict of arguments of `Distiller` by name."
        )
    end = keras.tree.flatten(last_activation(student))[0]
    binary = answers_each_unit(outputs[0].shape[-1], end, student_loss)
    loss = losses.BinaryKLDivergence if binary else losses.KLDivergence
    logits = end not in PROBABILITIES
    return {
        f"T {temperature:g}, labels {weight:g}": {
            "distillation_losses": loss(temperature=temperature, from_logits=logits),
            "student_loss_weight": weight,
        }
        for temperature, weight in _TEACHINGS
    }


def _default_stages(epochs: int, zipped: bool, formats: Sequence[str]) -> dict[str, list[Stage]]:
    tuned = max(1, epochs // 3)
    found: dict[str, list[Stage]] = {"no stage": []}
    if "int8" in formats:
        found["8 bits trained"] = [QuantizeAware(tuned)]
    if importlib.util.find_spec("ai_edge_quantizer") is not None and "int8" in formats:
        found["4 bits trained"] = [QuantizeAware(tuned, weight_bits=4)]
    if zipped:  # zeros and shared values count in a zipped file alone
        found["75 % pruned"] = [Prune(0.75, tuned)]
        if "int8" in formats:
            found["75 % pruned, 8 bits trained"] = [Prune(0.75, tuned), QuantizeAware(tuned)]
            found["16 values, 8 bits trained"] = [Cluster(16, tuned), QuantizeAware(tuned)]
    return found


def _formats(stages: Sequence[Stage], formats: Sequence[str]) -> list[str]:
    """Return the formats of a student: the one that it was trained for, or all that were given."""
    for name in formats:
        one_of("formats", name, QUANTIZATIONS)
    trained = [stage for stage in stages if isinstance(stage, QuantizeAware)]
    if not trained:
        return list(dict.fromkeys(formats))
    if trained[0].weight_bits != 8:
        return ["int4"]
    return ["int8" if trained[0].activation_bits == 8 else "int16x8"]
