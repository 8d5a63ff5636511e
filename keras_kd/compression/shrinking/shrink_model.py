"""shrink: a smaller model out of a larger one, without a pipeline."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any, TypeVar, Unpack

import keras

from keras_kd.compression.shrinking.importance import Importance, taylor_scores
from keras_kd.compression.shrinking.plan import ShrinkPlan, check_shrinkable, decide
from keras_kd.compression.shrinking.shrink import Shrink, ShrinkOptions
from keras_kd.data.batches import as_batches
from keras_kd.data.labels import class_labels
from keras_kd.data.taught_inputs import student_inputs
from keras_kd.distilling.checks.student_loss import resolve_losses
from keras_kd.distilling.trainer import compile_arguments
from keras_kd.models.graph import graph_of, input_structure, output_structure
from keras_kd.models.weights import check_finite_weights
from keras_kd.system.names import refuse_unknown

_Function = TypeVar("_Function", bound=Callable[..., Any])


def _with_options(function: _Function) -> _Function:
    """Show the options of `Shrink` in the signature of a function that passes them on."""
    shown = dict(inspect.signature(function).parameters)
    del shown["options"]
    for name, parameter in inspect.signature(Shrink).parameters.items():
        if name in ShrinkOptions.__annotations__:
            shown[name] = parameter
    function.__signature__ = inspect.Signature(list(shown.values()))  # type: ignore[attr-defined]
    return function


@_with_options
def shrink(
    model: keras.Model,
    ratio: float | None = None,
    *,
    data: Any = None,
    loss: Any = None,
    **options: Unpack[ShrinkOptions],
) -> keras.Model:
    """Return a smaller model that is a part of a larger one.

    Channels are removed where they are of least importance, together with every weight that makes
    them or takes them: through additions, concatenations, depthwise and grouped convolutions,
    normalization, flattening, pooling and attention, which loses whole heads. The result gives
    the outputs that the model would give with all these weights at zero. Channels that reach an
    unsupported layer stay, as do inputs and outputs of the model; `shrink_plan(...).layers` gives
    the change of each layer and the reason.

    Args:
        model: A functional or sequential model; nested models are opened. It is not changed.
        ratio: Fraction of the channels (and of the attention heads) to remove, at least 0 and
            below 1. Defaults to `None`.
        data: Batches of `(x, y)` for `importance="taylor"`: a `tf.data.Dataset`, a
            `keras.utils.PyDataset` or arrays `(x, y)`. Defaults to `None`.
        loss: The loss for `"taylor"`: a Keras loss or its name. Defaults to `None`, the loss that
            the model was compiled with.
        **options: The other arguments of `keras_kd.Shrink` that say what goes: `max_flops`,
            `flops_ratio`, `max_parameters`, `importance`, `batches`, `scope`, `reduction`,
            `min_channels`, `layers`, `exclude`, `drop`, `depth`, `layer_norm` and `divisor`.

    Returns:
        A functional model (a sequential one for a sequential model) with layers of the same
        names, not compiled.

    Raises:
        TypeError: If an argument is of the wrong kind.
        ValueError: If the model is subclassed, an argument is out of range, a name is of no layer,
            nothing can be removed, or a budget cannot be reached.

    Example:

    ```python
    student = keras_kd.shrink(teacher, flops_ratio=0.5)
    distiller = keras_kd.Distiller(teacher, student, keras_kd.losses.KLDivergence(4.0))
    ```

    References:
        Fang et al., DepGraph: Towards Any Structural Pruning, 2023, arXiv:2301.12900.
        Li et al., Pruning Filters for Efficient ConvNets, 2017, arXiv:1608.08710.
        Liu et al., Learning Efficient Convolutional Networks through Network Slimming, 2017,
        arXiv:1708.06519.
        Molchanov et al., Importance Estimation for Neural Network Pruning, 2019, arXiv:1906.10771.
    """
    return shrink_plan(model, ratio, data=data, loss=loss, **options).apply()


@_with_options
def shrink_plan(
    model: keras.Model,
    ratio: float | None = None,
    *,
    data: Any = None,
    loss: Any = None,
    **options: Unpack[ShrinkOptions],
) -> ShrinkPlan:
    """Return the plan of `shrink` without carrying it out.

    Args:
        model: A functional or sequential model.
        ratio: As in `shrink`.
        data: As in `shrink`.
        loss: As in `shrink`.
        **options: The other arguments of `shrink`.

    Returns:
        A `ShrinkPlan`. Printing it gives a table of the layers; `apply()` the smaller model.

    Raises:
        TypeError: If an argument is of the wrong kind.
        ValueError: As in `shrink`.

    Example:

    ```python
    print(keras_kd.shrink_plan(teacher, 0.5, exclude="stem_*"))
    ```
    """
    refuse_unknown("shrink", options, ShrinkOptions.__annotations__)
    given = Shrink(ratio, **options)
    check_finite_weights(model, "model")
    check_shrinkable(model, given)
    scores = None
    if given.importance == "taylor":
        if data is None:
            raise ValueError(
                'importance="taylor" looks at the change of the loss on data: give `data=` some '
                "batches of (x, y)."
            )
        batches = as_batches(data, "data")
        scores = taylor_scores(model, batches, _loss(model, loss), given.batches)
    return decide(model, given, Importance(given.importance, scores))


def _loss(model: Any, loss: Any) -> Callable[[Any, Any, Any, Any], Any]:
    if loss is not None:
        compiled = keras.Model(input_structure(model), output_structure(graph_of(model)))
        compiled.compile(loss=resolve_losses(loss, model))
    else:
        compiled = model
    compiled_loss = compile_arguments(compiled).loss_function()
    if compiled_loss is None:
        raise ValueError(
            'importance="taylor" looks at the change of the loss, but the model is not compiled '
            "with one: give "
            "`loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True)` or another."
        )

    def on_labels(x: Any, y: Any, sample_weight: Any, model: Any) -> Any:
        if y is None:
            raise ValueError('importance="taylor" needs labels: `data` must give (x, y).')
        return compiled_loss(
            class_labels(y), model(student_inputs(x), training=False), sample_weight
        )

    return on_labels
