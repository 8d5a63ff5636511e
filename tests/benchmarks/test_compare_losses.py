"""The table of losses, tiny, on digits."""

import json
import pathlib

import pytest

from keras_kd import losses

# The base, and the losses for real values, boxes, attention, and with a mask.
LEFT_OUT = {
    "DistillationLoss", "BoundedRegression", "LocalizationDistillation", "ForegroundWeighted",
    "AttentionRelation", "AttentionScores",
}  # fmt: skip
NOT_LOSSES = {"alone", "VkD", "DOT", "SelfTeacher", "PS-KD"}
ROOT = pathlib.Path(__file__).parents[2]


@pytest.fixture(scope="module")
def benchmark(load_script):
    return load_script("benchmarks/compare_losses.py")


def test_has_every_loss_that_suits_classes(benchmark):
    exported = {name for name in vars(losses) if hasattr(getattr(losses, name), "uses_logits")}
    assert exported - LEFT_OUT == set(benchmark.LOSSES) - NOT_LOSSES


def test_table_is_of_means_deviations_and_paired_differences(benchmark):
    def run(accuracy):
        return {"accuracy": accuracy, "seconds": 3.0}

    results = {
        "alone": {0: run(0.80), 1: run(0.84)},
        "KLDivergence": {0: run(0.85), 1: run(0.87)},
        "FitNet": {1: run(0.88)},
    }
    _, _, teacher, *rows = benchmark.table(results, 0.9).splitlines()
    assert teacher == "| teacher | | | 90.00 | | 1 |"
    assert rows == [
        "| KL + FitNet | block4_1_out | 100 | 88.00 | +1.00 | 1 |",
        "| KL |  |  | 86.00 ± 1.41 | +0.00 | 2 |",
        "| student alone |  |  | 82.00 ± 2.83 | -4.00 | 2 |",
    ]


@pytest.mark.slow
def test_goes_on_where_it_stopped_and_refuses_other_settings(benchmark, tmp_path, monkeypatch):
    command = ["--dataset", "digits", "--out", str(tmp_path), "--seeds", "1", "--epochs", "1"]
    command += ["--examples", "128", "--teacher-examples", "128", "--teacher-epochs", "1"]
    benchmark.main([*command, "--losses", "FitNet"])
    first = {path.name: path.read_bytes() for path in tmp_path.glob("*.seed0.json")}
    assert set(first) == {"FitNet.seed0.json"}
    accuracy = json.loads(first["FitNet.seed0.json"])["accuracy"]
    assert (
        f"| KL + FitNet | block4_1_out | 100 | {100 * accuracy:.2f} |"
        in (tmp_path / "table.md").read_text()
    )

    trained = []

    train_student = benchmark.train_student

    def noted(name, *rest):
        trained.append(name)
        return train_student(name, *rest)

    monkeypatch.setattr(benchmark, "train_student", noted)
    benchmark.main([*command, "--losses", "FitNet", "PKT"])
    assert trained == ["PKT"]
    assert (tmp_path / "FitNet.seed0.json").read_bytes() == first["FitNet.seed0.json"]
    with pytest.raises(SystemExit, match="other settings"):
        benchmark.main([*command, "--epochs", "2", "--losses", "alone"])


@pytest.mark.parametrize("dataset", ["fashion_mnist", "cifar10"])
def test_the_guide_quotes_the_kept_results(benchmark, dataset):
    kept = json.loads((ROOT / f"exports/reference/losses_{dataset}.json").read_text())
    guide = (ROOT / "docs/measured/losses.md").read_text()
    assert benchmark.report(kept) in guide
    assert set(kept["results"]) <= set(benchmark.LOSSES)
    assert {len(runs) for runs in kept["results"].values()} == {3}


@pytest.mark.slow
def test_chooses_a_rate_on_held_out_images_and_copies_images(benchmark, tmp_path, capsys):
    command = ["--dataset", "digits", "--out", str(tmp_path), "--seeds", "1", "--epochs", "1"]
    command += ["--examples", "128", "--teacher-examples", "128", "--teacher-epochs", "1"]
    benchmark.main([*command, "--views", "3", "--rates", "1e-6", "0.1", "--losses", "alone", "PKT"])
    kept = {path.stem: json.loads(path.read_text()) for path in tmp_path.glob("rate_*.json")}
    best = max(kept, key=kept.get)
    assert set(kept) == {"rate_1e-06", "rate_0.1"}
    measured = json.loads((tmp_path / "results.json").read_text())
    assert f"rate_{measured['learning_rate']:g}" == best
    assert "128 images in 3 views for 1 epochs" in capsys.readouterr().out
    data = benchmark.load_images("digits", 200)
    images, labels = benchmark.images_for_students(data, 128, 3)
    assert images.shape[0] == len(labels) == 3 * 128 and images.max() <= 1.0
    assert (labels[:128] == labels[128:256]).all() and (images[:128] != images[128:256]).any()
