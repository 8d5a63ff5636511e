import pytest

from keras_kd.cli.call_text import make_call, nearest, parse_call


class Thing:
    def __init__(self, amount=0.5, epochs=1, name=None):
        self.given = (amount, epochs, name)
        if amount < 0:
            raise ValueError("below 0")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("prune", ("prune", [], {})),
        ("prune()", ("prune", [], {})),
        (" prune( 0.75, epochs = 4 ) ", ("prune", [0.75], {"epochs": 4})),
        ("a(b='c', d=[1, 2], e=None)", ("a", [], {"b": "c", "d": [1, 2], "e": None})),
        ("a(-1)", ("a", [-1], {})),
    ],
)  # fmt: skip
def test_parse(text, expected):
    assert parse_call(text, "a stage") == expected


@pytest.mark.parametrize("text", ["", "1", "a(", "a(b)", "a(__import__('os'))", "a(1)(2)", "a b"])
def test_what_is_no_call_is_refused(text):
    with pytest.raises(ValueError, match=r"a stage is written as a name.*Received"):
        parse_call(text, "a stage")


def test_make_call_takes_defaults_that_are_not_given():
    things = {"thing": Thing}
    assert make_call("thing", things, "a thing").given == (0.5, 1, None)
    defaults = {"epochs": 7, "absent": 1}
    assert make_call("thing(0.1)", things, "a thing", defaults).given == (0.1, 7, None)
    assert make_call("thing(0.1, 2)", things, "a thing", defaults).given == (0.1, 2, None)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("thin", r"There is no thing 'thin'. Did you mean 'thing'\?"),
        ("thing(epoch=1)", r"'thing' has no argument `epoch`. Did you mean 'epochs'\?"),
        ("thing(1, 2, 3, 4)", "too many positional"),
        ("thing(-1)", "below 0"),
        ("thing('a')", "'thing"),
    ],
)
def test_make_call_refuses(text, message):
    with pytest.raises(ValueError, match=message):
        make_call(text, {"thing": Thing}, "a thing")


def test_nearest_lists_all_where_nothing_is_near():
    assert nearest("xyz", ["prune", "cluster"]) == "There are: cluster, prune."
