"""Draw the pictures of the documentation; their numbers come from `exports/reference/demo.json`.

python tools/pictures.py    writes docs/pictures/*.svg
"""

import json
import math
import pathlib

ROOT = pathlib.Path(__file__).parents[1]
PICTURES = ROOT / "docs" / "pictures"

# Colors follow the reader's system; strokes and text have a contrast above 4.5 in both.
STYLE = """<style>
  .ink { fill: #24292f } .faint { fill: #57606a } .line { stroke: #57606a; fill: none }
  .teacher { fill: #dbe7ff; stroke: #3554a5 } .student { fill: #dff3e3; stroke: #2b7a3d }
  .file { fill: #fdeccd; stroke: #945c00 } .bar { fill: #3554a5 } .soft { fill: #2b7a3d }
  .no { fill: #b3261e }
  text { font-family: system-ui, sans-serif; font-size: 21px; text-anchor: middle }
  .big { font-size: 25px; font-weight: 600 } .small { font-size: 18px } .left { text-anchor: start }
  @media (prefers-color-scheme: dark) {
    .ink { fill: #e6edf3 } .faint { fill: #9da7b1 } .line { stroke: #9da7b1 }
    .teacher { fill: #1d2c4f; stroke: #8aa8ff } .student { fill: #163321; stroke: #6ccf84 }
    .file { fill: #3d2c0c; stroke: #e3b05a } .bar { fill: #8aa8ff } .soft { fill: #6ccf84 }
    .no { fill: #ff8a80 }
  }
</style>"""


def text(x, y, words, kind="ink"):
    """Return a line of text, centered at `x`."""
    return f'<text x="{x:g}" y="{y:g}" class="{kind}">{words}</text>'


def box(x, y, width, height, kind, *lines):
    """Return a rounded box with lines of text; the first is large."""
    top = y + height / 2 - 14 * (len(lines) - 1) + 8
    words = (
        text(x + width / 2, top + 28 * i, line, "ink big" if i == 0 else "ink")
        for i, line in enumerate(lines)
    )
    shape = f'<rect x="{x:g}" y="{y:g}" width="{width:g}" height="{height:g}" rx="10"'
    return f'{shape} stroke-width="2" class="{kind}"/>' + "".join(words)


def arrow(x, y, to_x, to_y, words="", dashed=False):
    """Return an arrow, with words above its middle."""
    dash = ' stroke-dasharray="6 5"' if dashed else ""
    angle = math.atan2(to_y - y, to_x - x)
    tips = [
        (to_x - 12 * math.cos(angle + turn), to_y - 12 * math.sin(angle + turn))
        for turn in (0.45, -0.45)
    ]
    head = " ".join(f"{a:.1f},{b:.1f}" for a, b in [(to_x, to_y), *tips])
    label = text((x + to_x) / 2, (y + to_y) / 2 - 10, words, "faint small") if words else ""
    line = f'<path d="M{x:g} {y:g} L{to_x:g} {to_y:g}" stroke-width="2.5" class="line"{dash}/>'
    return f'{line}<polygon points="{head}" class="faint"/>{label}'


def bars(x, y, values, kind, width=22, height=90):
    """Return a bar chart that stands on `y`."""
    return "".join(
        f'<rect x="{x + i * (width + 6):g}" y="{y - height * value:.1f}" width="{width}" '
        f'height="{height * value:.1f}" class="{kind}"/>'
        for i, value in enumerate(values)
    )


def softmax(logits, temperature):
    """Return the probabilities of logits at a temperature."""
    powers = [math.exp(logit / temperature) for logit in logits]
    return [power / sum(powers) for power in powers]


def picture(name, width, height, title, *parts):
    """Return the name and the text of a picture."""
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" role="img" '
        f'aria-label="{title}">'
    )
    return name, "\n".join([head, f"<title>{title}</title>", STYLE, *parts, "</svg>"]) + "\n"


def front():
    """Draw the way from a teacher to a file, with the demo's numbers."""
    models = json.loads((ROOT / "exports/reference/demo.json").read_text())["models"]
    accuracy = {model["key"]: 100 * model["accuracy"]["mean"] for model in models}
    size = {model["key"]: model["file"]["bytes"] / 1000 for model in models}
    return picture(
        "from_teacher_to_file.svg",
        860,
        330,
        "A teacher teaches a student; stages make the student small; the exported file is measured",
        box(
            10,
            50,
            190,
            190,
            "teacher",
            "Teacher",
            f"{size['teacher']:.0f} kB",
            f"{accuracy['teacher']:.1f} %",
        ),
        arrow(205, 145, 322, 145, "Distiller"),
        box(
            330,
            90,
            150,
            110,
            "student",
            "Student",
            f"{size['distilled']:.1f} kB",
            f"{accuracy['distilled']:.1f} %",
        ),
        text(405, 232, f"alone: {accuracy['student_alone']:.1f} %", "faint small"),
        arrow(485, 145, 662, 145, "stages, export"),
        text(574, 172, "shrink, prune,", "faint small"),
        text(574, 195, "cluster, quantize", "faint small"),
        box(
            670,
            100,
            180,
            90,
            "file",
            "int8 file",
            f"{size['int8']:.1f} kB, {accuracy['int8']:.1f} %",
        ),
        text(760, 222, "run and measured", "faint small"),
        '<path d="M105 245 C 105 300, 574 320, 574 205" stroke-width="2.5" '
        'stroke-dasharray="6 5" class="line"/>',
        text(300, 318, "the teacher still teaches inside the stages", "faint small"),
    )


def distillation():
    """Draw what a teacher adds to a label."""
    logits = [6.0, 4.0, 1.0, -1.0]
    return picture(
        "distillation.svg",
        860,
        260,
        "A label names one class; the teacher's outputs at temperature 4 rank all of them",
        text(130, 40, "label", "ink big"),
        bars(75, 180, [1, 0, 0, 0], "bar"),
        text(130, 215, "cat, dog, fox, car", "faint small"),
        text(130, 243, "one class", "faint small"),
        text(430, 40, "teacher, temperature 1", "ink big"),
        bars(375, 180, softmax(logits, 1.0), "bar"),
        text(430, 215, "nearly the label", "faint small"),
        text(730, 40, "temperature 4", "ink big"),
        bars(675, 180, softmax(logits, 4.0), "soft"),
        text(730, 215, "a cat that looks like a dog", "faint small"),
    )


def hint():
    """Draw a hint between two inner layers."""
    layers = []
    pairs = {"block 1": "block 1", "block 2": "", "block 3": "block 2", "logits": "logits"}
    for i, (name, of_student) in enumerate(pairs.items()):
        y = 40 + 72 * i
        layers.append(box(60, y, 200, 48, "teacher", name))
        if of_student:
            layers.append(box(600, y, 170, 48, "student", of_student))
    return picture(
        "hint.svg",
        860,
        350,
        "A hint compares an inner layer of the teacher with one of the student",
        text(160, 25, "teacher", "faint"),
        text(685, 25, "student", "faint"),
        *layers,
        arrow(265, 208, 592, 208, "Hint: projection, then a loss", dashed=True),
        arrow(265, 280, 592, 280, "loss on the outputs", dashed=True),
    )


def stage():
    """Draw the four steps of a stage."""
    steps = ["plan", "apply", "train", "finish"]
    words = ["what becomes of", "masks, clusters,", "same losses,", "zeros, shared values,"]
    more = ["each layer, and why", "quantizers", "same teacher", "8 bits are fixed"]
    parts = []
    for i, step in enumerate(steps):
        x = 35 + 215 * i
        parts.append(box(x, 30, 150, 60, "student", step))
        parts.append(text(x + 75, 122, words[i], "faint small"))
        parts.append(text(x + 75, 146, more[i], "faint small"))
        if i < 3:
            parts.append(arrow(x + 154, 60, x + 209, 60))
    return picture("stage.svg", 860, 165, "A stage plans, applies, trains and finishes", *parts)


def agreement():
    """Draw how agreement and accuracy count the same answers."""
    labels = ["cat", "dog", "cat", "fox"]
    model, file = ["cat", "dog", "dog", "fox"], ["cat", "dog", "dog", "dog"]
    parts = []
    rows = {"label": labels, "Keras model": model, "file": file}
    for row, (name, answers) in enumerate(rows.items()):
        y = 50 + 55 * row
        parts.append(text(15, y, name, "ink big left"))
        for i, answer in enumerate(answers):
            kind = "ink" if answer == labels[i] else "no"
            parts.append(text(235 + 100 * i, y, answer, kind))
    right = sum(a == b for a, b in zip(labels, file, strict=True))
    same = sum(a == b for a, b in zip(model, file, strict=True))
    parts.append(text(740, 105, f"agreement {same} of 4", "ink"))
    parts.append(text(740, 160, f"accuracy {right} of 4", "ink"))
    return picture(
        "agreement.svg",
        860,
        190,
        "Accuracy compares the file's answers with labels, agreement with the Keras model's",
        *parts,
    )


def main():
    """Write every picture."""
    PICTURES.mkdir(exist_ok=True)
    for name, content in (draw() for draw in (front, distillation, hint, stage, agreement)):
        (PICTURES / name).write_text(content, encoding="utf-8")
        print(f"docs/pictures/{name}")


if __name__ == "__main__":
    main()
