def test_quick_mode_goes_the_whole_way_from_a_saved_model(run_quick):
    printed, folder = run_quick("compress_a_pretrained_model")
    table = (folder / "table.md").read_text()
    assert table.strip() in printed
    titles = [line.split("|")[1].strip() for line in table.splitlines()[2:]]
    assert titles[0] == "teacher" and titles[-1] == "shrunk, distilled, pruned, int8"
    assert len(list(folder.glob("*.tflite"))) == len(titles) == 7
    assert (folder / "pretrained.keras").is_file() and (folder / "report.html").is_file()
    teacher, smallest = (folder / f"{title.replace(', ', '_')}.tflite" for title in titles[::6])
    assert smallest.stat().st_size < teacher.stat().st_size / 10
    for part in ("prune", "quantize_aware", "export int8"):
        assert f"\n{part}\n" in printed  # what `check` says of it
