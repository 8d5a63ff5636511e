"""Classify digits with LiteRT alone, without keras_kd, Keras or TensorFlow.

    pip install ai-edge-litert
    python classify.py digits.tflite < digits.csv

A line holds a label and 64 pixels from 0 to 255. Printed: the ten logits of every line.
"""

import sys

import numpy as np
from ai_edge_litert.interpreter import Interpreter

interpreter = Interpreter(model_path=sys.argv[1])
run = interpreter.get_signature_runner()
(image,) = run.get_input_details()
for line in sys.stdin:
    pixels = np.array(line.split(",")[1:], np.float32).reshape(1, 8, 8, 1)
    (logits,) = run(**{image: pixels}).values()
    print(*(f"{logit:.6g}" for logit in logits[0]))
