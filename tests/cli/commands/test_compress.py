import json
import tomllib

import pytest

from keras_kd.cli import main


def test_stages_keep_the_order_of_the_command_line(parse_command):
    def stages_of(*words):
        return parse_command("compress", *words)["stages"]

    assert stages_of(
        "--shrink", "0.25", "--low-rank", "0.9:3", "--stages", "prune(0.5, scope='global')",
        "cluster(8)", "--quantize-aware",
    ) == [
        "shrink(0.25)", "low_rank(0.9, epochs=3)", "prune(0.5, scope='global')", "cluster(8)",
        "quantize_aware()",
    ]  # fmt: skip
    assert stages_of("--quantize-aware", "2") == ["quantize_aware(epochs=2)"]
    assert stages_of("--cluster", "16:1", "--prune", "0.75") == [
        "cluster(16, epochs=1)",
        "prune(0.75)",
    ]


@pytest.fixture
def words(distilled, work):
    return [
        "--student", str(distilled / "student.keras"), "--teacher", "big.keras", "--data",
        "train.npz", "--quiet",
    ]  # fmt: skip


def test_prune_and_quantize(keras_kd_json, words, work, files_of_help):
    code, result = keras_kd_json("compress", *words, "--prune", "0.5:1", "--quantize-aware", "1")
    assert code == 0
    assert result["model"] == "runs/compress/student.keras"
    assert result["sparsity"] == pytest.approx(0.5, abs=0.05)
    assert [stage["name"] for stage in result["stages"]] == ["student", "prune", "quantize_aware"]
    assert {layer["bits"] for layer in result["layers"] if layer["parameters"]} == {8}
    notes = json.loads((work / "runs/compress/student.keras.json").read_text())
    # Not asked for again: it stands beside the student.
    assert notes["preprocessing"]["scale"] == 255.0
    assert notes["class_names"] == ["cat", "dog", "fish"]
    assert (work / "runs/compress/stages/run.json").is_file()
    written = work / "runs/compress"
    assert [name for name in files_of_help("compress") if not (written / name).is_file()] == []
    recipe = tomllib.loads((work / "runs/compress/recipe.toml").read_text())
    assert recipe["compress"]["stages"] == ["prune(0.5, epochs=1)", "quantize_aware(epochs=1)"]
    code, again = keras_kd_json("compress", *words, "--prune", "0.5:1", "--quantize-aware", "1")
    assert again == result


def test_validation_data_that_the_student_was_trained_on(keras_kd, words, materials, work):
    words = [word.replace("train.npz", str(materials / "train.npz")) for word in words[:-1]]
    words += ["--prune", "0.5", "--epochs", "0", "--out"]
    code, _, error = keras_kd("compress", *words, "same")
    assert code == 0 and "was trained on" not in error
    code, _, error = keras_kd("compress", *words, "other", "--seed", "1")
    assert code == 0 and "student.keras' was trained on" in error
    assert "--validation-split 0.1 --seed 0 is what was held out" in error
    notes = json.loads((work / "other/student.keras.json").read_text())
    assert [training["seed"] for training in notes["trained_on"]] == [0, 1]
    # Neither seed is of unseen data now.
    data = ["--data", str(materials / "train.npz"), "--part", "validation", "--seed", "1"]
    _, _, error = keras_kd("measure", "other/student.keras", *data)
    assert "'other/student.keras' was trained on" in error and "Give other data" in error


@pytest.mark.slow
def test_to_a_size(keras_kd_json, words):
    code, result = keras_kd_json(
        "compress", *words, "--prune", "0.9", "--epochs", "0", "--max-zipped-bytes", "2900",
        "--size-of", "float32",
    )  # fmt: skip
    assert code == 0, result
    assert result["zipped"] <= 2900
    assert 0 < result["strength"] <= 1
    assert result["sparsity"] == pytest.approx(0.9 * result["strength"], abs=0.05)


@pytest.mark.parametrize(
    ("exit_code", "more", "message"),
    [
        (2, [], "needs --stages"),
        (2, ["--prune", "2"], "sparsity"),
        (2, ["--prune", "a"], "arguments are numbers or quoted"),
        (1, ["--quantize-aware", "--prune", "0.5"], "Prune cannot follow QuantizeAware"),
        (1, ["--prune", "0.5", "--scale", "1"], "trained with --scale 255 --offset 0"),
        (2, ["--prune", "0.5", "--max-bytes", "1", "--max-zipped-bytes", "1"], "not both"),
        (2, ["--prune", "0.5", "--max-bytes", "1", "--max-drop", "1"], "cannot be combined"),
        (2, ["--prune", "0.5", "--max-drop", "1", "--validation-split", "0"], "--validation-data"),
    ],
)
def test_what_is_refused(keras_kd, words, work, exit_code, more, message):
    code, _, err = keras_kd("compress", *words, *more)
    assert code == exit_code
    assert message in err.splitlines()[-1]
    assert not (work / "runs/compress/result.json").exists()


def test_help_shows_the_shortcuts(capsys):
    with pytest.raises(SystemExit):
        main(["compress", "--help"])
    text = capsys.readouterr().out
    for name in ("--shrink", "--low-rank", "--prune", "--cluster", "--quantize-aware"):
        assert f"\n  {name} " in text
