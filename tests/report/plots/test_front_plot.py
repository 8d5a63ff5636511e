from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from types import SimpleNamespace

import pytest

from keras_kd.report import complete_result
from keras_kd.report.plots.figure import figure
from keras_kd.report.plots.front_plot import (
    _box,
    _free_place,
    _gap,
    _leader,
    _lines,
    _meet,
    draw_front,
    letters,
)


def texts(svg):
    return [
        "".join(node.itertext()).strip() for node in ET.fromstring(svg).iter() if "text" in node.tag
    ]


@pytest.mark.parametrize("cost", ["bytes", "zipped_bytes", "latency_ms"])
def test_every_model_with_a_file_has_its_letter(result, cost):
    shown = texts(draw_front(cost, complete_result(result)["models"]))
    labels = {text.split(" ")[0] for text in shown if re.match(r"[A-Z]( |$)", text)}
    assert labels == {"A", "B", "C", "E"}  # D, "Pruned", has no file


def test_titles_stand_where_there_is_room(result):
    shown = texts(draw_front("bytes", complete_result(result)["models"]))
    assert "A Teacher" in shown and "E Pruned and int8" in shown
    assert "100 kB" in shown and "1 MB" in shown


def test_the_axis_names_its_unit(result):
    shown = texts(draw_front("latency_ms", complete_result(result)["models"]))
    assert "median latency, ms (logarithmic)" in shown


def test_the_front_is_named(result):
    svg = draw_front("latency_ms", complete_result(result)["models"])
    assert (
        "On the Pareto front: Pruned and int8, Teacher." in ET.fromstring(svg).attrib["aria-label"]
    )


def test_what_is_not_on_the_front_is_hollow(result):
    svg = draw_front("bytes", complete_result(result)["models"])
    # Two on the front, two not: the latter are filled with the color of the page.
    assert len(re.findall(r"fill: var\(--paper\)", re.sub(r"<defs>.*?</defs>", "", svg))) == 2


def test_labels_do_not_overlap(result):
    for i in range(12):  # a crowd
        model = dict(result["models"][4], key=f"m{i}", title=f"A model with a long name {i}")
        result["models"].append(model)
    svg = draw_front("bytes", complete_result(result)["models"])
    places = []
    for node in ET.fromstring(svg).iter():
        text = "".join(node.itertext()).strip()
        if "text" in node.tag and re.match(r"[A-Z]( |$)", text):
            places.append((float(node.attrib["x"]), float(node.attrib["y"])))
    assert len(places) >= 5
    for i, (x, y) in enumerate(places):
        for other_x, other_y in places[:i]:
            assert abs(x - other_x) > 4 or abs(y - other_y) > 7


def test_no_line_from_a_marker_crosses_a_label():
    labels = [_box(50, 12, 30, 8), _box(0, 0, 12, 12)]  # the second is the marker's own
    frame = SimpleNamespace(x0=-200, y0=-200, x1=200, y1=200)
    x, y, _ = _free_place((0, 0), 20, 8, (40,), labels, frame)
    line = _leader((0, 0), (x, y))
    assert not _meet(line, labels[:1]) and not _meet([_box(x, y, 20, 8)], labels)
    # To the right the line would cross what lies there.
    labels.append(_box(25, 0, 10, 4))
    x, y, _ = _free_place((0, 0), 20, 8, (40,), labels, frame)
    assert x < 0 or y != 0


def test_a_label_is_nearer_to_its_own_marker():
    frame = SimpleNamespace(x0=-200, y0=-200, x1=200, y1=200)
    marker = [_box(0, 0, 12, 12)]
    for other in ((-16, 0), (16, 0), (0, 20), (12, 14)):
        taken = [*marker, _box(*other, 12, 12)]
        x, y, distance = _free_place((0, 0), 60, 8, (8, 20), taken, frame, [other])
        label = _box(x, y, 60, 8)
        # Else a line leads from the marker to it.
        assert distance == 20 or _gap(label, other) >= 1.5 * _gap(label, (0, 0))


def test_labels_stay_off_the_caps_of_error_bars():
    with figure(3.0) as drawn:
        axes = drawn.subplots()
        (_, top) = axes.transData.transform((0.5, 0.7))
        left, _, right, above = _lines(axes, [(0.5, 0.3, 0.5, 0.7)])[0]
    assert right - left >= 2 * 2.5 and above > top


def test_without_measurements_there_is_no_plot(result):
    for model in result["models"]:
        if model["file"]:
            model["file"]["latency_ms"] = None
    models = complete_result(result)["models"]
    assert draw_front("latency_ms", models) is None
    assert draw_front("bytes", models) is not None


def test_one_file(result):
    result["models"] = result["models"][:1]
    assert "A Teacher" in texts(draw_front("bytes", complete_result(result)["models"]))


def test_letters_go_on_behind_z():
    named = letters([{"key": i} for i in range(53)])
    assert [named[0], named[25], named[26], named[52]] == ["A", "Z", "AA", "BA"]
