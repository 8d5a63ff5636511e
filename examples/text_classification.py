# %% [markdown]
# # Text classification: a BERT encoder taught into two layers, and into convolutions
#
# The teacher is a pretrained BERT-family encoder from KerasHub, fine-tuned on the few film reviews
# whose labels are used. It then labels other reviews, whose labels are not used, and two students
# learn from its outputs:
#
# - two of the teacher's own layers, the others dropped (DistilBERT, arXiv:1910.01108), with hints
#   on hidden states and on attention (TinyBERT, arXiv:1909.10351);
# - convolutions over word embeddings, for the smallest and fastest file.
#
# It needs `pip install keras-hub`, which also installs tensorflow-text for KerasHub's tokenizer.

# %%
import os
import pathlib
import sys
import tempfile

import keras
import keras_hub
import numpy as np
import tensorflow as tf
import tensorflow_datasets as tfds

import keras_kd as kd

QUICK = "--quick" in sys.argv  # True: some seconds; False: the table in the documentation
LABELLED, REVIEWS, TEST = (64, 96, 64) if QUICK else (1000, 8000, 2000)
LENGTH = 32 if QUICK else 48  # word pieces of each review
EPOCHS = 1 if QUICK else 2
SEEDS = range(1 if QUICK else 3)
OUT = pathlib.Path("exports/text_classification")

# A KerasHub preset by name, or a folder with one: here all-MiniLM-L6-v2, if it is in the dataset
# folder.
folder = pathlib.Path(os.environ.get("TFDS_DATA_DIR", ""), "minilm")
PRESET = str(folder) if folder.exists() else "bert_small_en_uncased"

# %% [markdown]
# ## Data
# The last word pieces of each review, because the verdict is usually at the end. Teacher and
# students read the same ids.

# %%
tokenizer = keras_hub.models.BertTokenizer.from_preset(PRESET)


def load(split, count):
    dataset = tfds.load("imdb_reviews", split=f"{split}[:{count}]", as_supervised=True)
    texts, labels = zip(*dataset.as_numpy_iterator(), strict=True)
    pieces = tokenizer([text.decode().replace("<br />", " ") for text in texts])
    ends = [list(row)[-(LENGTH - 2) :] for row in pieces]
    rows = [[tokenizer.cls_token_id, *row, tokenizer.sep_token_id] for row in ends]
    return keras.utils.pad_sequences(rows, LENGTH, padding="post"), np.array(labels)


x_train, y_train = load("train", REVIEWS)
x_test, y_test = load("test", TEST)


# %% [markdown]
# ## Teacher
# The upper half of the encoder is fine-tuned. The embeddings and the lower half are frozen, which
# saves a third of the time.


# %%
def train_teacher():
    backbone = keras_hub.models.BertBackbone.from_preset(PRESET, name="encoder")
    backbone.trainable = False
    for layer in backbone.transformer_layers[backbone.num_layers // 2 :]:
        layer.trainable = True
    tokens = keras.Input((LENGTH,), dtype="int32", name="tokens")
    mask = keras.ops.cast(tokens != tokenizer.pad_token_id, "int32")
    states = backbone(
        {"token_ids": tokens, "padding_mask": mask, "segment_ids": keras.ops.zeros_like(tokens)}
    )["sequence_output"]
    x = keras.layers.GlobalAveragePooling1D()(states, mask=mask)
    teacher = keras.Model(tokens, keras.layers.Dense(2)(x), name="teacher")
    fit(teacher, x_train[:LABELLED], y_train[:LABELLED], rate=1e-4)
    return teacher, backbone


def fit(model, *data, rate, epochs=EPOCHS):
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(rate), None if len(data) == 1 else loss)
    model.fit(*data, epochs=epochs, verbose=0 if QUICK else 2)


# %% [markdown]
# ## Students
# More than half of an encoder's parameters are its embedding table. Both students get the table
# with fewer columns: its largest principal components.
#
# The layers of the first student are the teacher's first and last, with their weights. They have
# no padding mask: hardly a review is shorter than the window. If int8 costs a transformer accuracy,
# "dynamic" keeps the weights in 8 bits, and normalization and softmax in float.


# %%
def embedding(backbone, columns):
    table = backbone.token_embedding.get_weights()[0]
    directions = np.linalg.eigh(table.T @ table)[1][:, -columns:]
    narrow = table @ directions
    return keras.layers.Embedding(*narrow.shape, weights=narrow), directions


def two_layers(backbone):
    tokens = keras.Input((LENGTH,), dtype="int32", name="tokens")
    narrow, directions = embedding(backbone, 128)
    widen = keras.layers.Dense(len(directions), use_bias=False)
    place = keras_hub.layers.PositionEmbedding(LENGTH)
    norm = keras.layers.LayerNormalization(epsilon=1e-12)
    x = widen(narrow(tokens))
    x = norm(x + place(x))
    originals = [backbone.transformer_layers[i] for i in (0, -1)]
    for i, original in enumerate(originals):
        layer = type(original).from_config({**original.get_config(), "name": f"layer{i}"})
        x = layer(x)
        layer.set_weights(original.get_weights())
    widen.set_weights([directions.T])
    positions, segments = (
        backbone.get_layer(name).get_weights()[0]
        for name in ("position_embedding", "segment_embedding")
    )
    place.set_weights([positions[:LENGTH] + segments[0]])
    norm.set_weights(backbone.get_layer("embeddings_layer_norm").get_weights())
    x = keras.layers.GlobalAveragePooling1D()(x)
    return keras.Model(tokens, keras.layers.Dense(2)(x), name="two_layers")


def convolutions(backbone):
    tokens = keras.Input((LENGTH,), dtype="int32", name="tokens")
    x = embedding(backbone, 64)[0](tokens)
    for _ in range(2):
        x = keras.layers.Conv1D(64, 5, padding="same", activation="relu")(x)
        x = keras.layers.Dropout(0.2)(x)
    x = keras.layers.GlobalMaxPooling1D()(x)
    return keras.Model(tokens, keras.layers.Dense(2)(x), name="convolutions")


# %% [markdown]
# ## Training
# The teacher runs once over all reviews. Its outputs, the hidden states in its middle and at its
# end, and the attention of its last layer are then read from files. The loss on hidden states is
# their squared difference; the loss on attention, a distribution over the word pieces, is its
# divergence.


# %%
def hints(backbone):
    middle, last = backbone.num_layers // 2 - 1, backbone.num_layers - 1
    return [
        kd.Hint(f"encoder/transformer_layer_{middle}", "layer0"),
        kd.Hint(f"encoder/transformer_layer_{last}", "layer1"),
        kd.Hint(
            f"encoder/transformer_layer_{last}/self_attention_layer/softmax",
            "layer1/self_attention_layer/softmax",
            loss=kd.losses.KLDivergence(temperature=1.0, from_logits=False),
        ),
    ]


def run(seed):
    models = {"teacher": teacher}
    for network, losses, rate, epochs in (
        (two_layers, [answers, *hints(backbone)], 2e-4, EPOCHS),
        (convolutions, [answers], 1e-3, 3 * EPOCHS),
    ):
        title = network.__name__.replace("_", " ")
        keras.utils.set_random_seed(seed)
        alone = network(backbone)
        fit(alone, x_train[:LABELLED], y_train[:LABELLED], rate=rate, epochs=epochs)
        keras.utils.set_random_seed(seed)
        distiller = kd.Distiller(None, network(backbone), losses, student_loss_weight=0.0)
        fit(distiller, taught.shuffle(250, seed=seed), rate=rate, epochs=epochs)
        models |= {f"{title}, alone": alone, f"{title}, distilled": distiller.student}
    forms = {
        "two layers, distilled": ("float32", "dynamic", "int8"),
        "convolutions, distilled": ("float32", "int8"),
    }
    results = {}
    for title, model in models.items():
        for form in forms.get(title, ("float32",)):
            name = title if form == "float32" else f"{title}, {form}"
            results[name] = measure(model, name, form)
    return results


def measure(model, title, quantization):
    path = OUT / f"{title.replace(', ', '_').replace(' ', '_')}.tflite"
    kd.export_tflite(
        model, path, quantization, representative_data=x_train, batch_size=1, verbose=False
    )
    model.save(path.with_suffix(".keras"))
    return kd.evaluate_tflite(path, (x_test, y_test))


# %% [markdown]
# ## Result
# One teacher, and students from several seeds.

# %%
keras.utils.set_random_seed(0)
teacher, backbone = train_teacher()
answers = kd.losses.KLDivergence(temperature=2.0)
reviews = tf.data.Dataset.from_tensor_slices((x_train, y_train)).batch(32)
with tempfile.TemporaryDirectory() as cache:
    taught = kd.teachers.cache(teacher, reviews, cache, layers=hints(backbone), dtype="float16")
    runs = [run(seed) for seed in SEEDS]
print(
    kd.report.compare_files(
        {title: [results[title] for results in runs] for title in runs[0]}, folder=OUT
    )
)
