import json
import pathlib

import numpy as np
import pytest

from keras_kd.system.json_values import plain


def test_values_become_what_json_holds():
    value = {
        1: np.float32(0.5),
        "array": np.array([[1, 2]]),
        "flags": (np.bool_(True), False, None),
        "path": pathlib.PurePosixPath("a/b"),
        "not finite": [float("nan"), np.inf, np.array([-np.inf, 1.0])],
    }
    made = plain(value)
    assert made == {
        "1": 0.5,
        "array": [[1, 2]],
        "flags": [True, False, None],
        "path": "a/b",
        "not finite": [None, None, [None, 1.0]],
    }
    assert json.loads(json.dumps(made, allow_nan=False)) == made


@pytest.mark.parametrize(("otherwise", "expected"), [(str, "(1+2j)"), (None, 1 + 2j)])
def test_other_values_are_left_or_given_to_the_caller(otherwise, expected):
    given = (otherwise,) if otherwise else ()
    assert plain([1 + 2j], *given) == [expected]
