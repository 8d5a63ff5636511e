from keras_kd.system.shown_text import shown, shown_in_line


def test_control_characters_are_written_out():
    text = "d\x1b[31m\x07red\x9b1m\u202e \t\n ünder"
    assert shown(text) == "d\\x1b[31m\\x07red\\x9b1m\\u202e \t\n ünder"
    assert "\n" not in shown_in_line(text)
    assert shown("\r\x00\x7f") == "\\r\\x00\\x7f"
