"""DOT: momentum kept apart for the gradients of labels and teacher."""

from __future__ import annotations

from typing import Any

import keras
from keras import ops

from keras_kd.system.arguments import number


@keras.saving.register_keras_serializable(package="keras_kd")
class DOT(keras.optimizers.SGD):
    """Distillation-oriented gradient descent with two momentum buffers.

    The gradient of the distillation losses is accumulated with the momentum `momentum + delta`,
    that of the loss on labels and the regularizers with `momentum - delta`; a step is the sum of
    both. The gradient of the teacher dominates, which the paper finds to end in flatter minima.

    Only `kd.Distiller.fit` gives an optimizer the two gradients. A step takes two backward passes.

    As in the authors' code it is plain stochastic gradient descent. That code adds the weight decay
    to the gradient of the labels; here it is Keras's, decoupled from the gradients.

    Args:
        learning_rate: A number or a schedule. Defaults to `0.01`.
        momentum: Mean of the two momentums, from 0 to below 1. Defaults to `0.9`.
        delta: Half their difference; both must lie between 0 and 1. Defaults to `0.075`, the value
            for CIFAR-100; for ImageNet the authors use `0.09`.
        weight_decay: Weight decay. Defaults to `None`.
        name: Name of the optimizer. Defaults to `"dot"`.

    Raises:
        ValueError: If a momentum is not between 0 and 1; in a step, if the gradients are not apart.

    Example:

    ```python
    distiller.compile(
        keras_kd.DOT(0.05, momentum=0.9, delta=0.075),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    )
    ```

    Reference:
        Zhao et al., DOT: A Distillation-Oriented Trainer, ICCV 2023, arXiv:2307.08436.
    """

    takes_two_gradients = True

    def __init__(
        self,
        learning_rate: Any = 0.01,
        momentum: float = 0.9,
        delta: float = 0.075,
        weight_decay: float | None = None,
        name: str = "dot",
    ) -> None:
        number("momentum", momentum, least=0, below=1, owner="DOT")
        number(
            "delta",
            delta,
            least=0,
            most=momentum,
            below=1 - momentum,
            owner="DOT",
            advice="Both momentum - delta and momentum + delta must lie between 0 and 1.",
        )
        super().__init__(
            learning_rate, float(momentum - delta), weight_decay=weight_decay, name=name
        )
        self.mean_momentum, self.delta = momentum, delta
        self.of_teacher = keras.optimizers.SGD(1.0, float(momentum + delta), name="of_teacher")

    def build(self, variables: Any) -> None:
        """Make both momentum buffers."""
        super().build(variables)
        self.of_teacher.build(variables)

    @property
    def variables(self) -> list[Any]:
        """The variables of the optimizer, those of the second buffer included."""
        return [*super().variables, *self.of_teacher.variables]

    def update_step(self, gradient: Any, variable: Any, learning_rate: Any) -> None:
        """Take a step.

        Args:
            gradient: The gradient of labels and regularizers and that of the distillation losses,
                stacked, `[2, *variable.shape]`.
            variable: The variable.
            learning_rate: The learning rate.
        """
        if len(gradient.shape) != len(variable.shape) + 1:
            raise ValueError(
                "DOT needs the gradients of labels and teacher apart, which only "
                "kd.Distiller.fit gives. Compile a kd.Distiller with it, or use another optimizer, "
                f"such as keras.optimizers.SGD({self.learning_rate!r}, momentum=0.9)."
            )
        super().update_step(gradient[0], variable, learning_rate)
        self.of_teacher.update_step(gradient[1], variable, learning_rate)

    def get_config(self) -> dict[str, Any]:
        """Return the arguments of the constructor."""
        config = super().get_config()
        return {
            "learning_rate": config["learning_rate"],
            "momentum": self.mean_momentum,
            "delta": self.delta,
            "weight_decay": config["weight_decay"],
            "name": config["name"],
        }


def stacked(of_labels: Any, of_teacher: Any) -> Any:
    """Return two gradients of a variable as one tensor, either `None` as zeros."""
    if of_labels is None and of_teacher is None:
        return None
    known = [None if g is None else ops.convert_to_tensor(g) for g in (of_labels, of_teacher)]
    return ops.stack(
        [ops.zeros_like(known[1 - i]) if g is None else g for i, g in enumerate(known)]
    )
