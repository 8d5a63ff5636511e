"""Tables as text."""

from keras_kd.system.text_table import markdown_table, text_table, with_measured

ROWS = [("model", "bytes"), ("teacher", "5,000"), ("a", "7")]


def test_the_first_column_to_the_left_the_others_to_the_right():
    assert text_table(ROWS).split("\n") == [
        "model    bytes",
        "--------------",
        "teacher  5,000",
        "a            7",
    ]


def test_all_columns_to_the_left_and_no_rule():
    assert text_table(ROWS, left=2, rule=False).split("\n") == [
        "model    bytes",
        "teacher  5,000",
        "a        7",
    ]


def test_markdown():
    assert markdown_table(ROWS[:2]).split("\n") == [
        "| model | bytes |",
        "|---|---|",
        "| teacher | 5,000 |",
    ]


def test_tables_stand_between_their_marks():
    page = (
        "A\n<!-- measured: a.json -->\nold\n<!-- /measured -->\n"
        "B\n<!-- measured: b -->\n<!-- /measured -->\n"
    )
    text = with_measured(page, lambda name: f"table of {name}")
    assert text == (
        "A\n<!-- measured: a.json -->\n\ntable of a.json\n\n<!-- /measured -->\n"
        "B\n<!-- measured: b -->\n\ntable of b\n\n<!-- /measured -->\n"
    )
    assert with_measured(text, lambda name: f"table of {name}") == text
