"""Tables as text."""

from keras_kd.system.text_table import markdown_table, text_table

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
