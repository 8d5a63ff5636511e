import pytest

from keras_kd.models.structures import arrange, at, leaves


def test_leaves_with_the_keys_that_lead_to_them():
    structure = {"b": [1, None], "a": (2, {"c": 3})}
    assert leaves(structure) == [
        (1, ("b", 0)),
        (None, ("b", 1)),
        (2, ("a", 0)),
        (3, ("a", 1, "c")),
    ]
    assert leaves(5) == [(5, ())]
    assert all(at(structure, path) == leaf for leaf, path in leaves(structure))


def test_an_index_is_looked_up_by_name_in_a_dictionary():
    assert at({"x": 1, "y": 2}, (1,), ["x", "y"]) == 2
    assert at({"x": [1, 4]}, (0, 1), ["x"]) == 4


@pytest.mark.parametrize("path", [(3,), ("a",), (0, 0), (0, "b")])
def test_a_path_that_leads_nowhere_is_an_error(path):
    with pytest.raises(LookupError):
        at([1, 2], path)


def test_values_by_name_come_in_the_order_of_the_outputs():
    assert arrange({"y": 2}, ["o1", "o2"], ["x", "y"], "loss") == [None, 2]
    assert arrange({"x": 2}, "o1", ["x"], "loss") == 2


@pytest.mark.parametrize(
    ("values", "outputs", "names"),
    [
        ([1, 2], ["o1", "o2"], ["x", "y"]),
        ({"x": 1}, {"x": "o1"}, ["layer"]),
        ({"x": 1}, ["o1"], None),
        ({"x": 1}, ["o1", ["o2"]], ["x", "y"]),
        (3, ["o1"], ["x"]),
    ],
)
def test_other_values_stay_as_they_are(values, outputs, names):
    assert arrange(values, outputs, names, "loss") is values


def test_an_unknown_name_is_refused_with_those_that_exist():
    with pytest.raises(ValueError, match=r"`loss_weights` names the output 'z'.*'x', 'y'"):
        arrange({"z": 1}, ["o1", "o2"], ["x", "y"], "loss_weights")
