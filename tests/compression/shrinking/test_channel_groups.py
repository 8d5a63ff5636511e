import numpy as np

from keras_kd.compression.shrinking.channel_groups import ChannelGroups, connected, kept_axis


def test_connected_components_equal_a_search():
    generator = np.random.default_rng(0)
    for count, edges in [(1, 0), (5, 2), (60, 40), (300, 290), (300, 2000)]:
        first, second = generator.integers(0, count, (2, edges))
        root = connected(count, first, second)
        neighbors = {i: set() for i in range(count)}
        for a, b in zip(first.tolist(), second.tolist(), strict=True):
            neighbors[a].add(b)
            neighbors[b].add(a)
        for start in range(count):
            seen, todo = {start}, [start]
            while todo:
                new = neighbors[todo.pop()] - seen
                seen |= new
                todo += new
            assert root[start] == min(seen)


def test_a_long_chain_is_one_component():
    root = connected(5000, np.arange(4999), np.arange(1, 5000))
    assert (root == 0).all()


def test_joined_axes_are_one_family_and_concatenated_ones_are_not():
    groups = ChannelGroups()
    a, b, c = (groups.new(3, name) for name in "abc")
    axis = groups.join(a, b, "")
    both = np.concatenate([axis, c])
    solved = groups.solve()
    np.testing.assert_array_equal(solved.of(a), solved.of(b))
    assert len(np.unique(solved.of(both))) == 6
    assert len(solved.removable) == 6
    families = solved.family[solved.of(both)]
    assert families[0] == families[1] == families[2] != families[3]
    assert [solved.sources[solved.source[i]] for i in both] == ["a"] * 3 + ["c"] * 3


def test_channels_that_meet_a_fixed_size_stay_with_all_that_depends_on_them():
    groups = ChannelGroups()
    a, b, c = (groups.new(2, name) for name in "abc")
    groups.join(a, b, "")
    assert groups.join(b, None, "fixed") is None
    mixed = np.concatenate([kept_axis(1), c])
    groups.join(mixed[:2], groups.new(2, "d"), "beside")
    solved = groups.solve()
    assert {solved.reasons[g] for g in solved.of(a).tolist()} == {"fixed"}
    # Only the second channel of d is coupled with one that may go.
    assert solved.removable.tolist() == sorted({*solved.of(c).tolist()})
