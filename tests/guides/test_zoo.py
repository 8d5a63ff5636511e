"""The code of the page of students to download runs."""


def test_code(run_guide):
    names = run_guide("../zoo.md")
    assert names["student"].name == "cifar10_98kb" and len(names["labels"]) == 100
