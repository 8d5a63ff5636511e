from __future__ import annotations

import re
import xml.etree.ElementTree as ET

from keras_kd.report import complete_result, plots


def texts(svg):
    return [
        "".join(node.itertext()).strip() for node in ET.fromstring(svg).iter() if "text" in node.tag
    ]


def test_size_plot_names_every_model_with_a_file(result):
    svg = plots.accuracy_against_size(complete_result(result)["models"])
    shown = texts(svg)
    for title in ("Teacher", "Student alone", "Distilled student", "Pruned and int8"):
        assert title in shown
    assert "Pareto front" in shown and "Pruned" not in shown
    assert "100 kB" in shown and "1 MB" in shown


def test_size_plot_without_files_is_absent(result):
    for model in result["models"]:
        model["file"], model["accuracy_of"] = None, "keras model"
    assert plots.accuracy_against_size(complete_result(result)["models"]) is None


def test_size_plot_of_one_file(result):
    result["models"] = result["models"][:1]
    assert "Teacher" in texts(plots.accuracy_against_size(complete_result(result)["models"]))


def test_curves_share_a_plot_by_title(result):
    drawn = plots.training_curves(complete_result(result)["curves"])
    assert [title for title, _ in drawn] == ["Teacher", "Student alone", "Distilled student"]
    shown = texts(drawn[1][1])
    for name in ("accuracy", "val_accuracy", "loss", "val_loss"):
        assert shown.count(name) >= 1
    assert "learning_rate" not in shown


def test_a_curve_with_gaps_and_one_epoch(result):
    result["curves"] = [
        {
            "title": "one",
            "stage": "s",
            "seed": None,
            "epochs": [1],
            "series": {"loss": [float("nan")], "accuracy": [0.5]},
        }
    ]
    assert len(plots.training_curves(complete_result(result)["curves"])) == 1


def test_bars_only_for_layers_with_weights(result):
    shown = texts(plots.layer_sparsity(complete_result(result)["layers"]))
    assert "block5_Conv2D" in shown and "50 %" in shown
    assert not any("ReLU" in text for text in shown)


def test_names_are_text_and_not_markup_or_mathematics(result):
    result["layers"][0]["name"] = "a<b & $x_1$"
    shown = texts(plots.layer_sparsity(complete_result(result)["layers"]))
    assert "a<b & $x_1$" in shown


def test_ids_are_unique_and_references_resolve(result):
    full = complete_result(result)
    svgs = [plots.accuracy_against_size(full["models"]), plots.layer_sparsity(full["layers"])]
    svgs += [svg for _, svg in plots.training_curves(full["curves"])]
    page = "".join(svgs)
    ids = re.findall(r'\bid="([^"]+)"', page)
    assert len(ids) == len(set(ids))
    references = re.findall(r'href="#([^"]+)"', page) + re.findall(r"url\(#([^)]+)\)", page)
    assert references and set(references) <= set(ids)


def test_settings_of_matplotlib_stay(result):
    import matplotlib

    matplotlib.rcParams["font.size"] = 17
    plots.layer_sparsity(complete_result(result)["layers"])
    assert matplotlib.rcParams["font.size"] == 17
    matplotlib.rcdefaults()
