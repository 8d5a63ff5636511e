"""shrink: a smaller model out of a larger one, without a pipeline."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import keras

from keras_kd.compression.shrinking.importance import Importance, taylor_scores
from keras_kd.compression.shrinking.options import ShrinkOptions
from keras_kd.compression.shrinking.plan import ShrinkPlan, check_shrinkable, make_plan
from keras_kd.data.batches import as_batches
from keras_kd.data.labels import class_labels
from keras_kd.data.taught_inputs import student_inputs
from keras_kd.distilling.checks.student_loss import resolve_losses
from keras_kd.models.graph import graph_of, input_structure, output_structure
from keras_kd.models.weights import check_finite_weights


def shrink(
    model: keras.Model,
    ratio: float | None = None,
    *,
    max_flops: float | None = None,
    flops_ratio: float | None = None,
    max_parameters: int | None = None,
    importance: str = "l1",
    data: Any = None,
    loss: Any = None,
    batches: int = 10,
    scope: str = "uniform",
    reduction: str = "mean",
    min_channels: int = 1,
    layers: str | Sequence[str] | Callable[[Any], bool] | None = None,
    exclude: str | Sequence[str] | Callable[[Any], bool] | None = None,
    drop: str | Sequence[str] | None = None,
    depth: float | None = None,
    layer_norm: bool = False,
) -> keras.Model:
    """Return a smaller model that is a part of a larger one.

    Channels are removed where they are of least importance, together with every weight that makes
    them or takes them: through additions, concatenations, depthwise and grouped convolutions,
    normalisation, flattening, pooling and attention, whose heads go as a whole. What is left gives
    the outputs that the model would give with all these weights at zero. Channels that reach a
    layer which is not understood stay, as do inputs and outputs of the model;
    `shrink_plan(...).layers` says for each layer what became of it and why.

    Args:
        model: A functional or sequential model; nested models are opened. It is left as it is.
        ratio: Fraction of the channels (and of the attention heads) to remove, at least 0 and
            below 1. Defaults to `None`.
        max_flops: FLOPs of one pass over one example that may remain, two for each
            multiply-accumulate (see `model_cost`). As few channels go as are needed. Defaults to
            `None`.
        flops_ratio: Fraction of the FLOPs to remove at least. Defaults to `None`.
        max_parameters: Number of parameters that may remain. Defaults to `None`.
        importance: `"l1"`, the magnitude of a channel's weights; `"batch_norm"`, the magnitude of
            its scale in batch normalisation; or `"taylor"`, the change of the loss on `data`, to
            first order, when it goes. Defaults to `"l1"`.
        data: Batches of `(x, y)` for `"taylor"`: a `tf.data.Dataset`, a `keras.utils.PyDataset`
            or arrays `(x, y)`. Defaults to `None`.
        loss: The loss for `"taylor"`: a Keras loss or its name. Defaults to `None`, the loss that
            the model was compiled with.
        batches: Number of batches for `"taylor"`. Defaults to `10`.
        scope: `"uniform"` removes the same fraction everywhere; `"global"` ranks the channels of
            the whole model. Defaults to `"uniform"`.
        reduction: `"mean"` or `"sum"` of the importances in all the weights that must go with a
            channel. Defaults to `"mean"`.
        min_channels: Channels of a layer that must remain, where it has so many. Defaults to `1`.
        layers: The layers that may lose channels: a name, a list of names, or a function that
            takes a layer and tells. A name is a layer's own, its path (`"backbone/conv1"`) or a
            shell pattern (`"block3_*"`). Channels that are coupled with those of another layer
            stay. Defaults to `None`, all.
        exclude: The layers that keep their channels, given in the same way. Defaults to `None`.
        drop: Residual blocks to drop, by the name (or pattern) of the addition that ends them;
            transformer layers, nested models or other layers whose output has the shape of their
            input, by their own. Defaults to `None`.
        depth: Fraction of such blocks to drop, those of least importance. Defaults to `None`.
        layer_norm: Whether channels that a LayerNormalization normalises over may go. Its mean is
            then that of the channels left, so that outputs are not those of the model with
            channels at zero. Defaults to `False`.

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
    arguments = {k: v for k, v in locals().items() if k not in ("model", "ratio")}
    return shrink_plan(model, ratio, **arguments).apply()


def shrink_plan(
    model: keras.Model,
    ratio: float | None = None,
    *,
    data: Any = None,
    loss: Any = None,
    **options: Any,
) -> ShrinkPlan:
    """Say what `shrink` would do, without doing it.

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
    given = ShrinkOptions(ratio, **options)
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
    return make_plan(model, given, Importance(given.importance, scores))


def _loss(model: Any, loss: Any) -> Callable[[Any, Any, Any, Any], Any]:
    if loss is not None:
        compiled = keras.Model(input_structure(model), output_structure(graph_of(model)))
        compiled.compile(loss=resolve_losses(loss, model))
    else:
        compiled = model
    compiled_loss = getattr(compiled, "_compile_loss", None)
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
