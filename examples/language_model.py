# %% [markdown]
# # Language model: every word taught, by the teacher's whole distribution
#
# A language model outputs, at every position, a probability for each word of its vocabulary. Per-
# token distillation (Sanh et al., arXiv:1910.01108, for the loss; Kim and Rush, arXiv:1606.07947,
# for the name: word-level) matches the student's probabilities with the teacher's at each
# position, in addition to the true next word.
#
# The teacher runs once: `kd.teachers.cache` stores its logits in files. For a large vocabulary,
# `top_k=` stores the likeliest words and the total probability of the others.
#
# Teacher and student are causal transformers, trained on film reviews. As usual with language
# models, the teacher has read more than is at hand for the student: ten times as many reviews. Its
# distribution carries what it learned there. It is also a much less noisy target than one true
# word, so the student bears a higher learning rate with it. Both kinds of training choose their
# rate on reviews that are held out.

# %%
import pathlib
import sys
import tempfile

import keras
import numpy as np
import tensorflow as tf
import tensorflow_datasets as tfds

import keras_kd as kd

QUICK = "--quick" in sys.argv  # True: some seconds; False: the table in the documentation
TEACHER_REVIEWS, REVIEWS = (60, 30) if QUICK else (24_000, 2_400)
HELD_OUT, TEST = (10, 10) if QUICK else (100, 100)
VOCABULARY = 500 if QUICK else 2000  # words
LENGTH = 32  # words of context
TEACHER_EPOCHS, EPOCHS = (1, 1) if QUICK else (2, 4)
RATES = (2e-3,) if QUICK else (2e-3, 4e-3, 8e-3, 16e-3)
SEEDS = range(1 if QUICK else 3)
OUT = pathlib.Path("exports/language_model")

# %% [markdown]
# ## Data
# The reviews are concatenated and cut into pieces. A word outside the vocabulary is the word
# `[UNK]`. Labels are the inputs shifted by one. The student's reviews are a part of the teacher's.

# %%
words = keras.layers.TextVectorization(VOCABULARY, ragged=True)


def texts(split, count):
    dataset = tfds.load("imdb_reviews", split=f"{split}[:{count}]")
    return [row["text"].decode().replace("<br />", " ") for row in dataset.as_numpy_iterator()]


def pieces(texts):
    ids = words(texts).flat_values.numpy().astype("int32")
    rows = ids[: len(ids) // (LENGTH + 1) * (LENGTH + 1)].reshape(-1, LENGTH + 1)
    return rows[:, :-1], rows[:, 1:]


reviews = texts("train", TEACHER_REVIEWS + HELD_OUT)
words.adapt(reviews[:REVIEWS])
x_train, y_train = pieces(reviews[:REVIEWS])
held_out = pieces(reviews[TEACHER_REVIEWS:])
x_test, y_test = pieces(texts("test", TEST))

# %% [markdown]
# ## Teacher and student
# A position must not see later ones: `is_causal=True` hides them. Adding a moderate number, such as
# -20, to their scores is not enough. A well-trained teacher learns to outweigh it, sees the word
# that it has to predict, and its perplexity falls to nearly 1. In an int8 file `kd.export_tflite`
# gives hidden scores a number near the others, so that a mask takes no 8-bit steps from them.


# %%
def places(width):
    angle = np.arange(LENGTH)[:, None] / 10000 ** (np.arange(0, width, 2) / width)
    return np.concatenate([np.sin(angle), np.cos(angle)], axis=-1).astype("float32")


def attention(x, heads):
    width = x.shape[-1]
    split = [
        keras.layers.Reshape((LENGTH, heads, width // heads))(keras.layers.Dense(width)(x))
        for _ in ("query", "key", "value")
    ]
    x = keras.ops.dot_product_attention(*split, is_causal=True)
    return keras.layers.Dense(width)(keras.layers.Reshape((LENGTH, width))(x))


def transformer(width, layers, dropout, name):
    tokens = keras.Input((LENGTH,), dtype="int32", name="tokens")
    x = keras.layers.Embedding(VOCABULARY, width)(tokens) + places(width)
    for _ in range(layers):
        y = attention(keras.layers.LayerNormalization()(x), heads=4)
        x = x + keras.layers.Dropout(dropout)(y)
        y = keras.layers.Dense(4 * width, activation="relu")(keras.layers.LayerNormalization()(x))
        x = x + keras.layers.Dropout(dropout)(keras.layers.Dense(width)(y))
    x = keras.layers.LayerNormalization()(x)
    return keras.Model(tokens, keras.layers.Dense(VOCABULARY)(x), name=name)


def student(seed):
    keras.utils.set_random_seed(seed)
    return transformer(48, 2, 0.0, "student")


# %% [markdown]
# ## Training
# The student alone learns from the true words. The distilled one learns mostly from the teacher:
# the true words have a tenth of the weight. Everything else is the same for both: initial weights,
# order, epochs, and the choice among the rates.


# %%
def fit(model, data, rate, epochs=EPOCHS):
    rate = keras.optimizers.schedules.CosineDecay(rate, epochs * len(data))
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(rate), loss)
    model.fit(data.shuffle(100), epochs=epochs, shuffle=False, verbose=0 if QUICK else 2)


def alone(seed, rate):
    model = student(seed)
    fit(model, data, rate)
    return model


def distilled(seed, rate):
    kl = kd.losses.KLDivergence(temperature=1.0)
    distiller = kd.Distiller(None, student(seed), kl, student_loss_weight=0.1)
    fit(distiller, taught, rate)
    return distiller.student


def best_rate(train):
    found = {}
    for rate in RATES:
        model = train(0, rate)
        model.compile(loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True))
        found[rate] = np.exp(model.evaluate(*held_out, verbose=0))
        print(f"{train.__name__}, rate {rate:g}: perplexity {found[rate]:.2f} held out", flush=True)
    return min(found, key=found.get)


def run(seed):
    single, taught_one = (train(seed, rates[train]) for train in (alone, distilled))
    return {
        "teacher": measure(teacher, "teacher", "float32"),
        "student alone": measure(single, "student alone", "float32"),
        "student alone, dynamic": measure(single, "student alone, dynamic", "dynamic"),
        "distilled": measure(taught_one, "distilled", "float32"),
        "distilled, dynamic": measure(taught_one, "distilled, dynamic", "dynamic"),
        "distilled, int8": measure(taught_one, "distilled, int8", "int8"),
    }


# %% [markdown]
# ## Result
# Perplexity is the exponential of the cross-entropy of the next word: the number of equally likely
# words to choose from. Lower is better.


# %%
class Perplexity(keras.metrics.SparseCategoricalCrossentropy):
    """The exponential of the cross-entropy."""

    def result(self):
        """Return the perplexity so far."""
        return keras.ops.exp(super().result())


def measure(model, title, quantization):
    path = OUT / f"{title.replace(', ', '_').replace(' ', '_')}.tflite"
    kd.export_tflite(
        model, path, quantization, representative_data=x_train, batch_size=1, verbose=False
    )
    metric = Perplexity(name="perplexity", from_logits=True)
    return kd.evaluate_tflite(path, (x_test, y_test), metrics=[metric])


keras.utils.set_random_seed(0)
data = tf.data.Dataset.from_tensor_slices((x_train, y_train)).batch(32)
more = tf.data.Dataset.from_tensor_slices(pieces(reviews[:TEACHER_REVIEWS])).shuffle(200_000)
teacher = transformer(192, 3, 0.1, "teacher")
fit(teacher, more.batch(32), 1e-3, TEACHER_EPOCHS)
with tempfile.TemporaryDirectory() as folder:
    taught = kd.teachers.cache(teacher, data, folder, dtype="float16")
    rates = {train: best_rate(train) for train in (alone, distilled)}
    runs = [run(seed) for seed in SEEDS]
results = {title: [measured[title] for measured in runs] for title in runs[0]}
for metric in ("accuracy", "perplexity"):
    print(kd.report.compare_files(results, metric, OUT / metric), end="\n\n")
