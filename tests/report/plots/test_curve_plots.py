from __future__ import annotations

import xml.etree.ElementTree as ET

from matplotlib.axes import Axes

from keras_kd.report import complete_result
from keras_kd.report.plots.curve_plots import _draw_series, distinct_series, training_curves
from keras_kd.report.plots.figure import figure


def texts(svg):
    return [
        "".join(node.itertext()).strip() for node in ET.fromstring(svg).iter() if "text" in node.tag
    ]


def curve(**series):
    epochs = max(len(values) for values in series.values())
    return {"title": "one", "epochs": list(range(1, epochs + 1)), "series": series}


def test_curves_share_a_plot_by_title(result):
    drawn = training_curves(complete_result(result)["models"])
    assert [plot["title"] for plot in drawn] == ["Teacher", "Student alone", "Distilled student"]
    shown = texts(drawn[1]["svg"])
    for name in ("accuracy", "val_accuracy", "loss", "val_loss"):
        assert shown.count(name) >= 1
    assert "learning_rate" not in shown


def test_models_do_not_share_a_plot():
    models = [
        {"title": title, "curves": [curve(loss=[2.0, 1.0])]} for title in ("A", "B", "one (again)")
    ]
    titles = [plot["title"] for plot in training_curves(models)]
    assert titles == ["one (A)", "one (B)", "one (again)"]
    assert len(training_curves([{"curves": models[0]["curves"] * 2}])) == 1  # two seeds


def test_a_series_is_drawn_at_its_epochs(monkeypatch):
    drawn = []
    monkeypatch.setattr(Axes, "plot", lambda axes, x, y, **style: drawn.append((x, y)))
    gap = [3.0, None, 2.0, 1.0]
    with figure(2.0) as page:
        axes = page.subplots()
        curves = [curve(loss=gap), curve(loss=gap, val_loss=[2.0, 1.0])]
        _draw_series(axes, curves, ["loss", "val_loss"], 1.0)
    assert [x for x, _ in drawn] == [[1, 2, 3, 4], [1, 2, 3, 4], [2, 4]]
    assert drawn[-1][1] == [2.0, 1.0]


def test_equal_series_are_drawn_once():
    curves = [
        curve(
            student_loss=[1.0, 0.5],
            val_student_loss=[1.2, 0.7],
            kl_divergence=[3.0, 2.0],
            distillation_loss=[3.0, 2.0],
            val_loss=[1.2, 0.7],
        )
    ]
    drawn, equal = distinct_series(curves)
    assert drawn == ["student_loss", "distillation_loss", "val_loss"]
    assert equal == {"val_student_loss": "val_loss", "kl_divergence": "distillation_loss"}
    plot = training_curves([{"curves": curves}])[0]
    assert plot["equal"] == (
        "val_student_loss is equal to val_loss, kl_divergence is equal to distillation_loss"
    )
    assert "val_student_loss" not in texts(plot["svg"])


def test_losses_of_different_quantities_have_panels_of_their_own():
    series = {"loss": [2.0], "student_loss": [1.0], "distillation_loss": [3.0], "val_loss": [1.1]}
    shown = texts(training_curves([{"curves": [curve(**series)]}])[0]["svg"])
    assert shown.index("student_loss") < shown.index("distillation_loss")
    assert shown.count("loss on labels") == 1
    series["student_loss"] = [0.0]  # no labels
    assert "student_loss" not in texts(training_curves([{"curves": [curve(**series)]}])[0]["svg"])
    series["val_distillation_loss"] = [2.9]  # the teacher counts in both
    shown = texts(training_curves([{"curves": [curve(**series)]}])[0]["svg"])
    assert "loss on labels" not in shown


def test_series_that_differ_with_one_seed_are_both_drawn():
    curves = [curve(a=[1.0, 2.0], b=[1.0, 2.0]), curve(a=[1.0, 2.0], b=[1.0, 2.1])]
    assert distinct_series(curves) == (["a", "b"], {})


def test_zeros_have_a_panel_of_their_own():
    shown = texts(training_curves([{"curves": [curve(loss=[2.0], sparsity=[0.5])]}])[0]["svg"])
    assert "zeros, %" in shown and "loss" in shown


def test_a_curve_with_gaps_and_one_epoch():
    plot = training_curves([{"curves": [curve(loss=[None], accuracy=[0.5])]}])
    assert len(plot) == 1


def test_nothing_to_draw():
    assert training_curves([{"curves": [curve(learning_rate=[0.1])]}]) == []
