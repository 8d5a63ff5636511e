"""A training step of keras_kd beside one of keras.distillation.

Keras's default KL is not usable (it skips softmax and temperature); it is given the correct one.
"""

import keras
from networks import BATCH, compiled, convolutional, images
from side_by_side import compare, step_seconds

import keras_kd as kd

STEPS = 30


def keras_kl():
    return keras.distillation.LogitsDistillation(temperature=4.0, loss=keras.losses.KLDivergence())


def pair(hint):
    """Our distiller and Keras's, with equal models and losses."""
    keras.utils.set_random_seed(0)
    teacher = convolutional(32, "teacher")
    ours, theirs = [kd.losses.KLDivergence(4.0)], [keras_kl()]
    if hint:
        # Keras has no projection: the layers are as wide.
        ours.append(kd.Hint("block3_out", "block3_out"))
        theirs.append(keras.distillation.FeatureDistillation("mse", "block3_out", "block3_out"))
    width = 32 if hint else 16
    return (
        compiled(kd.Distiller(teacher, convolutional(width, "student"), ours)),
        compiled(keras.distillation.Distiller(teacher, convolutional(width, "student"), theirs)),
    )


def main():
    x, y = images(STEPS)
    for name, against, hint, bound in (
        ("step, logits KL", "keras.distillation with a correct KL", False, 1.0),
        ("step, KL + one hint", "keras.distillation with KL + FeatureDistillation", True, 0.75),
    ):
        runs = [
            lambda model=model: step_seconds(model, x, y, batch_size=BATCH) for model in pair(hint)
        ]
        for run in runs:
            run()  # traces
        compare(name, against, *runs, bound)


if __name__ == "__main__":
    main()
