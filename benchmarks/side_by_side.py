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


def with_processor_seconds(function):
    """Return the seconds that a function returns, and those that processors worked for it."""
    start = time.process_time()
    return function(), time.process_time() - start


def compare(name, against, ours, theirs, bound, rounds=ROUNDS, processor=False):
    """Measure two functions that return seconds, in turn; print and return the row of a table.

    The order changes from round to round. The ratio is the median of the rounds' ratios. With
    `processor`, a second ratio is that of the processor time of this process, which other processes
    of the machine change less.
    """
    pairs = []
    for i in range(rounds):
        if i % 2:
            second, first = with_processor_seconds(theirs), with_processor_seconds(ours)
        else:
            first, second = with_processor_seconds(ours), with_processor_seconds(theirs)
        pairs.append((first, second))
    ratios = [first[0] / second[0] for first, second in pairs]
    more = {"rounds": rounds, "milliseconds": _medians([[s for s, _ in pair] for pair in pairs])}
    if processor:
        worked = statistics.median(first[1] / second[1] for first, second in pairs)
        more["processor_ratio"] = round(worked, 3)
    return _row(name, against, ratios, bound, more)


def within(name, function, limit, rounds=ROUNDS):
    """Measure a call against a number of seconds; print and return the row of a table."""
    found = [with_processor_seconds(lambda: seconds(function)) for _ in range(rounds)]
    worked = statistics.median(processor for _, processor in found) / limit
    more = {
        "rounds": rounds,
        "milliseconds": _medians([[taken] for taken, _ in found]),
        "processor_ratio": round(worked, 3),
    }
    ratios = [taken / limit for taken, _ in found]
    return _row(name, f"{limit} seconds", ratios, 1.0, more)


def _medians(rounds):
    return [round(1e3 * statistics.median(side), 3) for side in zip(*rounds, strict=True)]


def _row(name, against, ratios, bound, more):
    row = {
        "measure": name,
        "against": against,
        "ratio": round(statistics.median(ratios), 3),
        "lowest": round(min(ratios), 3),
        "highest": round(max(ratios), 3),
        "bound": bound,
        **more,
    }
    emit(row)
    return row


def emit(row):
    """Print a row: one line of JSON, which `run.py` reads."""
    print(json.dumps(row), flush=True)
