"""Hints between the layers of transformers, and students made of a teacher's layers."""

from __future__ import annotations

import dataclasses
import inspect
import re
from collections.abc import Mapping, Sequence
from typing import Any

import keras

from keras_kd.distilling.hints import Hint
from keras_kd.losses.attention_scores import AttentionScores
from keras_kd.losses.fitnet import FitNet
from keras_kd.losses.shared.attention import AttentionLoss
from keras_kd.models.calls import operations_of
from keras_kd.models.features import find_layer
from keras_kd.models.graph import call_arguments, calls_of, origin_of

LayerMap = str | Sequence[int] | Mapping[int, int]


@dataclasses.dataclass(frozen=True)
class TransformerBlock:
    """A layer of a transformer.

    Attributes:
        attention: Path of its self-attention, a `keras.layers.MultiHeadAttention`.
        path: Path of the layer that holds it; `None` where it stands in the model's own graph.
        crosses: Whether that layer has another attention, as those of the decoder of an
            encoder-decoder model have. Defaults to `False`.
    """

    attention: str
    path: str | None
    crosses: bool = False

    @property
    def projections(self) -> list[str]:
        """The paths of the projections of queries, keys and values."""
        return [f"{self.attention}/{name}_dense" for name in ("query", "key", "value")]


def transformer_hints(
    teacher: keras.Model,
    student: keras.Model,
    layer_map: LayerMap = "uniform",
    *,
    embeddings: bool = True,
    hidden: bool = True,
    attention: AttentionLoss | bool | None = True,
) -> list[Hint]:
    """Return hints between the layers of two transformers: TinyBERT's, by default.

    A layer is one that holds a `keras.layers.MultiHeadAttention`, such as those of KerasHub's
    encoders, or such an attention in the graph of the model. Outputs of different width are
    projected by the hints.

    Args:
        teacher: The teacher.
        student: The student.
        layer_map: Which layer of the teacher teaches each of the student's: `"uniform"`, evenly
            spread and with the last one; `"last"`, the teacher's last layers; a list of teacher
            layers, one for each of the student's; or a dictionary `{student: teacher}` of some.
            Layers count from 0, negative numbers from the end. A name counts the layers of an
            encoder and of a decoder separately. Defaults to `"uniform"`.
        embeddings: Whether what enters the first layer is compared. Defaults to `True`.
        hidden: Whether the layers' outputs are compared. Defaults to `True`.
        attention: The loss of queries, keys and values: `True` for `AttentionScores()`, another
            loss such as `AttentionRelation(heads=12)`, or `None`. Defaults to `True`.

    Returns:
        Hints: the embeddings, then the hidden states and attentions of each pair of layers.

    Raises:
        ValueError: If a model has no such layers, or the map names one that does not exist.

    Example:

    ```python
    hints = keras_kd.transformer_hints(teacher, student, layer_map="uniform")
    distiller = keras_kd.Distiller(teacher, student, [keras_kd.losses.KLDivergence(), *hints])
    ```

    Reference:
        Jiao et al., TinyBERT: Distilling BERT for Natural Language Understanding, 2019,
        arXiv:1909.10351.
    """
    blocks = [transformer_blocks(model) for model in (teacher, student)]
    pairs = _pairs(layer_map, *blocks)
    hints = []
    if embeddings:
        hints.append(
            Hint(
                _embeddings("teacher", teacher, blocks[0][0]),
                _embeddings("student", student, blocks[1][0]),
                name="embeddings",
            )
        )
    loss = AttentionScores() if attention is True else attention or None
    for s, t in pairs:
        of_teacher, of_student = blocks[0][t], blocks[1][s]
        if hidden:
            if of_teacher.path is None or of_student.path is None:
                raise ValueError(
                    "The outputs of transformer layers cannot be read where an attention stands in "
                    f"the model's own graph. Received: '{of_teacher.attention}' and "
                    f"'{of_student.attention}'. Pass hidden=False, and a Hint for each layer."
                )
            hints.append(Hint(of_teacher.path, of_student.path, FitNet(), name=f"hidden_{s}"))
        if loss is not None:
            hints.append(
                Hint(
                    of_teacher.projections,
                    of_student.projections,
                    loss=loss.fresh(),
                    name=f"{loss.name}_{s}",
                )
            )
    return hints


def transformer_blocks(model: keras.Model) -> list[TransformerBlock]:
    """Return the layers of a transformer, in the order of its graph.

    Raises:
        ValueError: If there is none.
    """
    found: dict[str, TransformerBlock] = {}
    for path, layer in operations_of(model).items():
        if not isinstance(layer, keras.layers.MultiHeadAttention):
            continue
        parent = path.rpartition("/")[0]
        inside = parent and not isinstance(find_layer(model, parent), keras.Model)
        # The first attention of a layer is the one with itself, the next one in decoders is not.
        holder = parent if inside else None
        known = found.get(holder or path)
        block = TransformerBlock(path, holder) if known is None else known
        found[holder or path] = dataclasses.replace(block, crosses=known is not None)
    if not found:
        raise ValueError(
            f"The model '{model.name}' has no keras.layers.MultiHeadAttention. Received: a model "
            f"of {len(model.layers)} layers. Name its layers in a Hint each."
        )
    return list(found.values())


def _pairs(
    layer_map: LayerMap, teacher: Sequence[TransformerBlock], student: Sequence[TransformerBlock]
) -> list[tuple[int, int]]:
    """Return pairs of layers as `mapped_layers`; by name, within encoder and decoder."""
    if not isinstance(layer_map, str):
        return mapped_layers(layer_map, len(teacher), len(student))
    sides = [
        [
            [i for i, block in enumerate(side) if block.crosses is crosses]
            for crosses in (False, True)
        ]
        for side in (teacher, student)
    ]
    used = [stacks for stacks in zip(*sides, strict=True) if any(stacks)]
    if not all(map(all, used)):
        counts = [[len(stack) for stack in stacks] for stacks in sides]
        raise ValueError(
            "Teacher and student do not have the same stacks of transformer layers. Received: "
            f"layer_map={layer_map!r}, a teacher with {counts[0][0]} layers of one attention and "
            f"{counts[0][1]} with cross-attention, a student with {counts[1][0]} and "
            f"{counts[1][1]}. Pass {{student: teacher}}."
        )
    return [
        (student_stack[s], teacher_stack[t])
        for teacher_stack, student_stack in used
        for s, t in mapped_layers(layer_map, len(teacher_stack), len(student_stack))
    ]


def mapped_layers(layer_map: LayerMap, teacher: int, student: int) -> list[tuple[int, int]]:
    """Return pairs of a student's layer and the teacher's layer that teaches it.

    Args:
        layer_map: As for `transformer_hints`.
        teacher: Number of the teacher's layers.
        student: Number of the student's layers.

    Raises:
        ValueError: If the map does not fit these numbers.
    """
    chosen: Any = layer_map
    if isinstance(layer_map, str):
        spread = [round((i + 1) * teacher / student) - 1 for i in range(student)]
        last = list(range(teacher - student, teacher))
        chosen = {"uniform": spread, "last": last}.get(layer_map)
        chosen = None if teacher < student else chosen
    pairs: Any = None
    if isinstance(chosen, Mapping):
        pairs = list(chosen.items())
    elif isinstance(chosen, (list, tuple)) and len(chosen) == student:
        pairs = list(enumerate(chosen))
    if not pairs or not all(
        isinstance(i, int) and -count <= i < count
        for pair in pairs
        for i, count in zip(pair, (student, teacher), strict=True)
    ):
        raise ValueError(
            f"`layer_map` does not fit {student} student and {teacher} teacher layers. Received: "
            f'layer_map={layer_map!r}. Pass "uniform", "last", a list of {student} teacher layers, '
            "or {student: teacher}."
        )
    return [(s % student, t % teacher) for s, t in pairs]


def _embeddings(role: str, model: keras.Model, first: TransformerBlock) -> str:
    """Return the path of the layer whose output enters the first transformer layer."""
    path = first.path or first.attention
    prefix = path.rpartition("/")[0]
    for node in calls_of(find_layer(model, path)):
        arguments = call_arguments(node)
        # By keyword, the first argument is the one that the layer's `call` names first.
        first_name = next(iter(inspect.signature(node.operation.call).parameters), 0)
        tensors = keras.tree.flatten(arguments.get(0, arguments.get(first_name)))
        origin = origin_of(tensors[0]) if tensors else None
        if origin is not None:
            return f"{prefix}/{origin.operation.name}" if prefix else origin.operation.name
    raise ValueError(
        f"What enters the first transformer layer of the {role} cannot be told. Received: layer "
        f"'{path}' outside of a graph. Pass embeddings=False, and a Hint for it."
    )


def student_from_layers(
    teacher: keras.Model, layers: str | Sequence[int] = "uniform", count: int | None = None
) -> keras.Model:
    """Return a student made of some of the transformer layers of a KerasHub model.

    The student has the teacher's configuration with fewer layers, and starts from the teacher's
    weights: those of the chosen layers, and of everything around them. It is made as DistilBERT
    is, from every second layer. An encoder and a decoder keep the same layers.

    Args:
        teacher: A backbone of KerasHub whose configuration has `num_layers`, or a task with such a
            backbone, built.
        layers: The teacher's layers to keep, in order, counted from 0; or `"uniform"` or `"last"`
            with `count`. Defaults to `"uniform"`.
        count: Number of layers to keep. Defaults to `None`, half of them where `layers` is a name.

    Returns:
        A model of the teacher's class, without a preprocessor where it is a task.

    Raises:
        ValueError: If the teacher is not such a model, `layers` are not layers of it, or a stack of
            its layers, such as the decoder, has another number of them.

    Example:

    ```python
    student = keras_kd.student_from_layers(teacher, "uniform", count=3)
    ```

    Reference:
        Sanh et al., DistilBERT, a distilled version of BERT, 2019, arXiv:1910.01108.
    """
    backbone = getattr(teacher, "backbone", teacher)
    config = backbone.get_config()
    total = config.get("num_layers")
    if not isinstance(total, int) or isinstance(teacher, keras.Sequential):
        raise ValueError(
            "student_from_layers takes a KerasHub model whose configuration has `num_layers`. "
            f"Received: {type(teacher).__name__} '{teacher.name}'. Build the student by hand."
        )
    if isinstance(layers, str):
        pairs = mapped_layers(layers, total, count or max(total // 2, 1))
        layers = [t for _, t in pairs]
    kept = [t for _, t in mapped_layers(list(layers), total, len(layers))]
    inner = type(backbone).from_config(
        {**config, "num_layers": len(kept), "name": f"{backbone.name}_student"}
    )
    _copy_weights(backbone, inner, kept)
    if backbone is teacher:
        return inner
    outer = {**teacher.get_config(), "backbone": inner, "preprocessor": None}
    student = type(teacher).from_config({**outer, "name": f"{teacher.name}_student"})
    for source, target in zip(teacher.layers, student.layers, strict=True):
        if source is not backbone:
            target.set_weights(source.get_weights())
    return student


def _copy_weights(backbone: keras.Model, inner: keras.Model, kept: Sequence[int]) -> None:
    stacks = [_stacks(model) for model in (backbone, inner)]
    for (model, count), side in zip(
        ((backbone, backbone.get_config()["num_layers"]), (inner, len(kept))), stacks, strict=True
    ):
        counts = {name: len(paths) for name, paths in side.items()}
        if "" in counts or set(counts.values()) != {count}:
            raise ValueError(
                f"The layers of '{model.name}' do not match its configuration, which has "
                f"num_layers={count}. Received: layers {counts}. Build the student by hand."
            )
    sources = {
        path: stacks[0][name][t]
        for name, paths in stacks[1].items()
        for path, t in zip(paths, kept, strict=True)
    }
    for layer in inner.layers:
        if layer.weights:
            source = backbone.get_layer(sources.get(layer.name, layer.name))
            layer.set_weights(source.get_weights())


def _stacks(model: keras.Model) -> dict[str, list[str]]:
    """Return the paths of the transformer layers by their names without numbers, in order.

    Attentions in the graph of the model itself, which have no layer around them, stand under `""`.
    """
    stacks: dict[str, list[str]] = {}
    for block in transformer_blocks(model):
        path = block.path or ""
        stacks.setdefault(re.sub(r"\d+", "", path), []).append(path)
    return stacks
