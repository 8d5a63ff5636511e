import pytest

import keras_kd as kd


def test_what_was_asked_for(keras_kd_json):
    code, result = keras_kd_json(
        "check", "small.keras", "--prune", "0.75", "--quantize-aware", "--exports", "int8"
    )
    assert code == 0
    assert result["ok"]
    assert result["stages"] == ["prune", "quantize_aware"]
    cells = {row["path"]: row["cells"] for row in result["rows"]}
    assert cells["conv"]["prune"]["action"] == "prune 75%"


def test_what_will_be_refused_ends_with_1(keras_kd):
    code, out, _ = keras_kd("check", "small.keras", "--quantize-aware", "--prune", "0.5")
    assert code == 1
    assert "the order of stages will be refused" in out
    code, out, _ = keras_kd("check", "small.keras")
    assert code == 0
    assert "shrink" in out


def test_table(keras_kd, work):
    import keras

    code, out, _ = keras_kd("check", "small.keras", "--table", "--exports", "int8")
    model = keras.models.load_model("small.keras", compile=False)
    assert code == 0
    assert out.strip() == kd.check(model, exports=["int8"]).table().strip()


@pytest.mark.parametrize(
    ("exit_code", "words", "message"),
    [(1, ["absent.keras"], "absent.keras"), (2, [], "needs MODEL")],
)
def test_what_is_refused(keras_kd, exit_code, words, message):
    code, _, err = keras_kd("check", *words)
    assert code == exit_code
    assert message in err
