import numpy as np
import pytest

from keras_kd.compression.shrinking.channel_groups import ChannelGroups
from keras_kd.compression.shrinking.reshaping import reshaped


class FakeCall:
    name = "'x' (Reshape)"

    def __init__(self):
        self.groups = ChannelGroups()

    def join(self, first, second):
        return self.groups.join(first, second, "")

    def keep(self, axis, reason):
        self.groups.keep(axis, reason)


@pytest.mark.parametrize(
    ("before", "after", "axis"),
    [
        ((2, 3, 4, 5), (2, 60), 3),
        ((2, 3, 4, 5), (2, 12, 5), 3),
        ((2, 3, 4, 5), (2, 3, 20), 2),
        ((2, 3, 4, 5), (2, 3, 20), 1),
        ((2, 60), (2, 3, 4, 5), 1),
        ((2, 12, 5), (2, 3, 4, 5), 1),
        ((2, 12, 5), (2, 3, 4, 5), 2),
        ((2, 6), (2, 1, 1, 6), 1),
        ((2, 1, 1, 6), (2, 6), 3),
        ((2, 4, 6), (2, 2, 2, 3, 2), 2),
        ((2, 4, 6), (2, 8, 3), 1),
        ((2, 6, 1), (2, 6), 1),
        ((2, 6), (2, 1, 6, 1), 1),
        ((2, 1, 6, 4), (2, 3, 2, 2, 2), 2),
    ],
)
def test_places_that_hold_a_channel_go_with_it(before, after, axis):
    call = FakeCall()
    channels = call.groups.new(before[axis], "made")
    axes = tuple(channels if i == axis else None for i in range(len(before)))
    result = reshaped(call, axes, before, after)
    groups = call.groups.solve()
    # Every channel becomes a number; where the numbers end up is the truth.
    shape = [-1 if i == axis else 1 for i in range(len(before))]
    truth = np.broadcast_to(groups.of(channels).reshape(shape), before).reshape(after)
    labeled = [i for i, channels in enumerate(result) if channels is not None]
    if not labeled:
        assert not len(groups.removable)
        return
    (position,) = labeled
    shape = [-1 if i == position else 1 for i in range(len(after))]
    given = np.broadcast_to(groups.of(result[position]).reshape(shape), after)
    np.testing.assert_array_equal(given, truth)


def test_two_axes_that_are_mixed_stay():
    call = FakeCall()
    axes = (None, call.groups.new(3, "a"), call.groups.new(4, "b"))
    assert reshaped(call, axes, (None, 3, 4), (None, 12)) == (None, None)
    assert not len(call.groups.solve().removable)


@pytest.mark.parametrize(
    ("before", "after", "axis"),
    [
        ((None, 16), (None, 8), 1),
        ((None, 4, 16), (None, 2, 8), 2),
        ((None, 8, 4, 4), (None, 8), 1),
        ((None, 8), (None, 4, 4), 1),
        ((None, 8, 2, 16), (None, 8, 4), 3),
    ],
)
def test_channels_that_move_into_the_batch_stay(before, after, axis):
    call = FakeCall()
    axes = tuple(call.groups.new(n, "a") if i == axis else None for i, n in enumerate(before))
    assert reshaped(call, axes, before, after) == (None,) * len(after)
    assert not len(call.groups.solve().removable)


def test_the_last_axis_shrinks_where_others_move_into_the_batch():
    call = FakeCall()
    axes = (None, None, call.groups.new(16, "a"))
    assert reshaped(call, axes, (None, 4, 16), (None, 16))[1] is axes[2]


def test_unknown_sizes():
    call = FakeCall()
    axes = (None, None, None, call.groups.new(4, "a"))
    _, rows, channels = reshaped(call, axes, (None, None, None, 4), (None, None, 4))
    assert rows is None
    np.testing.assert_array_equal(channels, axes[3])
    *_, channels = reshaped(call, axes[1:], (None, None, 4), (None, None, 2, 2))
    assert channels is not None and len(channels) == 2
    assert reshaped(call, axes, (None, None, None, 4), (None, None)) == (None, None)
    assert not len(call.groups.solve().removable)
