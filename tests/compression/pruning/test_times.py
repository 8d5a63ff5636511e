import pytest
import tensorflow as tf

from keras_kd.compression.pruning.times import (
    PruningTimes,
    default_schedule,
    final_sparsity,
    sparsity_at,
)
from keras_kd.models.tfmot import import_tfmot


def _times(schedule, first, last):
    times, found = PruningTimes(schedule), []
    while (time := times.first_in(first, last)) is not None:
        found.append(time)
        first = time + 1
    return found


def test_the_steps_of_tf_mots_schedules():
    schedules = import_tfmot().sparsity.keras
    decay = schedules.PolynomialDecay(0.0, 0.8, 3, 11, frequency=4)
    assert _times(decay, 1, 10_000) == [3, 7, 11]
    constant = schedules.ConstantSparsity(0.5, 0, -1, 3000)
    assert _times(constant, 1, 10_000) == [3000, 6000, 9000]
    assert PruningTimes(constant).last_in(1, 8999) == 6000
    assert PruningTimes(constant).last_in(3001, 5999) is None


def test_schedules_of_ones_own_take_one_step_at_a_time():
    def schedule(step):
        return int(step) in (2, 5), 0.1 * float(step)

    assert _times(schedule, 1, 4000) == [2, 5]
    assert final_sparsity(schedule, 7) == pytest.approx(0.7)
    assert sparsity_at(schedule, 5) == pytest.approx(0.5)


@pytest.mark.parametrize("steps", [1, 2, 3, 7, 100, 1234])
@pytest.mark.parametrize("frequency", [None, 5])
def test_default_schedule_is_evaluated_at_its_end(steps, frequency):
    schedule = default_schedule(0.6, steps, 0.0, 0.75, frequency)
    values = [schedule(tf.constant(step, tf.int64)) for step in range(1, steps + 1)]
    last = [float(sparsity) for update, sparsity in values if bool(update)][-1]
    assert last == pytest.approx(0.6)
