from __future__ import annotations

import re
import xml.etree.ElementTree as ET

from keras_kd.report.plots import figure


def drawn(key, text="a<b & $x_1$"):
    with figure.figure(2.0) as picture:
        axes = picture.subplots()
        axes.plot([0, 1], [0.123456, 1], color=figure.SERIES[0], marker="o", label=text)
        axes.legend()
        return figure.svg(picture, key, "A line & a legend")


def test_colors_are_those_of_the_page():
    svg = drawn("a")
    assert "var(--series0)" in svg and "var(--grid)" in svg
    assert "font-family" not in svg and "DejaVu" not in svg  # the page's own
    assert not re.findall(r"#[0-9a-f]{6}\b", svg)


def test_names_are_text_and_not_markup_or_mathematics():
    root = ET.fromstring(drawn("a"))
    assert "a<b & $x_1$" in ["".join(node.itertext()) for node in root.iter() if "text" in node.tag]


def test_it_is_described_and_has_no_size_of_its_own():
    root = ET.fromstring(drawn("a"))
    assert root.attrib["role"] == "img" and root.attrib["aria-label"] == "A line & a legend"
    assert "width" not in root.attrib and "viewBox" in root.attrib


def test_ids_are_unique_and_references_resolve():
    page = drawn("a") + drawn("b")
    ids = re.findall(r'\bid="([^"]+)"', page)
    assert len(ids) == len(set(ids))
    references = re.findall(r'href="#([^"]+)"', page) + re.findall(r"url\(#([^)]+)\)", page)
    assert references and set(references) == set(ids)


def test_the_same_figure_gives_the_same_text():
    assert drawn("a") == drawn("a")


def test_digits_that_no_eye_sees_are_left_out_of_shapes_only():
    svg = drawn("a", "0.123456")
    assert ">0.123456</text>" in svg
    shapes = re.sub(r"<text.*?</text>", "", svg)
    assert not re.findall(r"\d\.\d{3,}", shapes)


def test_settings_of_matplotlib_stay():
    import matplotlib

    matplotlib.rcParams["font.size"] = 17
    drawn("a")
    assert matplotlib.rcParams["font.size"] == 17
    matplotlib.rcdefaults()
