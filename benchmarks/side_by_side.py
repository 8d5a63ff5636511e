"""Two things timed in turn in one run, and what a benchmark prints of them."""

import json
import statistics
import time

import keras

ROUNDS = 7


class StepTimes(keras.callbacks.Callback):
    """The seconds between the ends of two steps, of everything that belongs to a step."""

    def __init__(self):
        super().__init__()
        self.seconds = []

    def on_epoch_begin(self, epoch, logs=None):  # noqa: D102
        self.last = None

    def on_train_batch_end(self, batch, logs=None):  # noqa: D102
        now = time.perf_counter()
        if self.last is not None:
            self.seconds.append(now - self.last)
        self.last = now


def step_seconds(model, *data, **arguments):
    """Return the median seconds of a training step in one epoch of `fit`."""
    times = StepTimes()
    model.fit(*data, epochs=1, shuffle=False, verbose=0, callbacks=[times], **arguments)
    return statistics.median(times.seconds)


def seconds(function):
    """Return the seconds of a call."""
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def compare(name, against, ours, theirs, bound, rounds=ROUNDS):
    """Measure two functions that return seconds, in turn; print and return the row of a table.

    The order changes from round to round. The ratio is the median of the rounds' ratios.
    """
    pairs = []
    for i in range(rounds):
        if i % 2:
            second, first = theirs(), ours()
        else:
            first, second = ours(), theirs()
        pairs.append((first, second))
    ratios = sorted(first / second for first, second in pairs)
    row = {
        "measure": name,
        "against": against,
        "ratio": round(statistics.median(ratios), 3),
        "lowest": round(ratios[0], 3),
        "highest": round(ratios[-1], 3),
        "bound": bound,
        "rounds": rounds,
        "milliseconds": [
            round(1e3 * statistics.median(side), 3) for side in zip(*pairs, strict=True)
        ],
    }
    emit(row)
    return row


def emit(row):
    """Print a row: one line of JSON, which `run.py` reads."""
    print(json.dumps(row), flush=True)
