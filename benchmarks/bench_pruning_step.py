"""A training step with kd.Prune beside the same step without pruning.

The masks are applied in every step and updated in every 20th, as in a training of 2,000
steps. Means, so that the updates count.
"""

import statistics

import keras
from networks import BATCH, compiled, convolutional, images
from side_by_side import StepTimes, compare

import keras_kd as kd

STEPS = 100


def mean_step_seconds(model, x, y, *callbacks):
    times = StepTimes()
    model.fit(
        x, y, batch_size=BATCH, shuffle=False, verbose=0, callbacks=[*callbacks, times]
    )  # fmt: skip
    return statistics.mean(times.seconds)


def main():
    x, y = images(STEPS)
    keras.utils.set_random_seed(0)
    pruned, plain = (compiled(convolutional(32, name)) for name in ("pruned", "plain"))
    for name, arguments in (("pruning step", {}), ("pruning step, global", {"scope": "global"})):
        stage = kd.Prune(0.75, end=1.0, frequency=20, **arguments)
        runs = [
            lambda stage=stage: mean_step_seconds(pruned, x, y, stage.as_callback()),
            lambda: mean_step_seconds(plain, x, y),
        ]
        for run in runs:
            run()  # traces
        compare(name, "the same step without pruning", *runs, 1.1)


if __name__ == "__main__":
    main()
