"""Twenty small architectures in the manner of the examples at keras.io, and inputs for them.

Every function in `ARCHITECTURES` takes a number of samples and returns a model with random weights
and inputs for it. The models are small, so that a benchmark can train and export all of them.
"""

# ruff: noqa: D102

import keras
import numpy as np
from keras import layers, ops

CLASSES = 10
WORDS = 50


def smooth(count, *shape, seed=0):
    """Return random signals or images that are smooth along all axes but the last."""
    x = np.random.default_rng(seed).normal(size=(count, *shape))
    for axis in range(1, len(shape)):
        for _ in range(2):
            x = (x + np.roll(x, 1, axis) + np.roll(x, -1, axis)) / np.sqrt(3.0)
    return x.astype("float32")


def words(count, length, seed=0):
    """Return random rows of words, 0 left out."""
    return np.random.default_rng(seed).integers(1, WORDS, (count, length)).astype("int32")


# Vision


@keras.saving.register_keras_serializable("architectures")
class Patches(layers.Layer):
    """Cuts images into patches with `keras.ops`."""

    def __init__(self, size, **kwargs):
        super().__init__(**kwargs)
        self.size = size

    def call(self, images):
        _, height, width, channels = images.shape
        rows, columns = height // self.size, width // self.size
        x = ops.reshape(images, (-1, rows, self.size, columns, self.size, channels))
        x = ops.transpose(x, (0, 1, 3, 2, 4, 5))
        return ops.reshape(x, (-1, rows * columns, self.size * self.size * channels))

    def get_config(self):
        return {**super().get_config(), "size": self.size}


@keras.saving.register_keras_serializable("architectures")
class PatchEncoder(layers.Layer):
    """Projects patches and adds a learned position to each."""

    def __init__(self, patches, width, **kwargs):
        super().__init__(**kwargs)
        self.patches, self.width = patches, width
        self.projection = layers.Dense(width)
        self.position = layers.Embedding(patches, width)

    def call(self, x):
        return self.projection(x) + self.position(ops.arange(self.patches))

    def get_config(self):
        return {**super().get_config(), "patches": self.patches, "width": self.width}


def vision_transformer(count):
    image = keras.Input((16, 16, 3))
    x = PatchEncoder(16, 32)(Patches(4)(image))
    for _ in range(2):
        y = layers.LayerNormalization(epsilon=1e-6)(x)
        x = layers.Add()([x, layers.MultiHeadAttention(2, 16)(y, y)])
        y = layers.LayerNormalization(epsilon=1e-6)(x)
        y = layers.Dense(64, activation="gelu")(y)
        x = layers.Add()([x, layers.Dense(32)(layers.Dropout(0.1)(y))])
    x = layers.LayerNormalization(epsilon=1e-6)(x)
    x = layers.Dense(64, activation="gelu")(layers.Flatten()(x))
    return keras.Model(image, layers.Dense(CLASSES)(x)), smooth(count, 16, 16, 3)


@keras.saving.register_keras_serializable("architectures")
class MixerBlock(layers.Layer):
    """Mixes patches, then channels."""

    def __init__(self, patches, width, **kwargs):
        super().__init__(**kwargs)
        self.patches, self.width = patches, width
        self.across = [layers.Dense(patches, activation="gelu"), layers.Dense(patches)]
        self.within = [layers.Dense(width, activation="gelu"), layers.Dense(width)]
        self.norms = [layers.LayerNormalization(), layers.LayerNormalization()]

    def call(self, x):
        y = ops.transpose(self.norms[0](x), (0, 2, 1))
        for layer in self.across:
            y = layer(y)
        x = x + ops.transpose(y, (0, 2, 1))
        y = self.norms[1](x)
        for layer in self.within:
            y = layer(y)
        return x + y

    def get_config(self):
        return {**super().get_config(), "patches": self.patches, "width": self.width}


def mlp_mixer(count):
    image = keras.Input((16, 16, 3))
    x = layers.Conv2D(24, 4, strides=4)(image)
    x = layers.Reshape((16, 24))(x)
    for _ in range(2):
        x = MixerBlock(16, 24)(x)
    x = layers.GlobalAveragePooling1D()(layers.LayerNormalization()(x))
    return keras.Model(image, layers.Dense(CLASSES)(x)), smooth(count, 16, 16, 3)


def conv_mixer(count):
    image = keras.Input((16, 16, 3))

    def activated(x):
        return layers.BatchNormalization()(layers.Activation("gelu")(x))

    x = activated(layers.Conv2D(24, 2, strides=2)(layers.Rescaling(1 / 255)(image)))
    for _ in range(2):
        y = activated(layers.DepthwiseConv2D(5, padding="same")(x))
        x = activated(layers.Conv2D(24, 1)(layers.Add()([y, x])))
    x = layers.GlobalAveragePooling2D()(x)
    pixels = np.clip(128 + 50 * smooth(count, 16, 16, 3), 0, 255).astype("float32")
    return keras.Model(image, layers.Dense(CLASSES)(x)), pixels


def mobile_vit(count):
    image = keras.Input((32, 32, 3))

    def convolution(x, filters, kernel=3, strides=1):
        return layers.Conv2D(filters, kernel, strides=strides, padding="same", activation="swish")(
            x
        )

    def inverted_residual(x, filters, strides=1):
        y = layers.Conv2D(2 * x.shape[-1], 1, use_bias=False)(x)
        y = keras.activations.swish(layers.BatchNormalization()(y))
        y = layers.DepthwiseConv2D(3, strides=strides, padding="same", use_bias=False)(y)
        y = keras.activations.swish(layers.BatchNormalization()(y))
        y = layers.BatchNormalization()(layers.Conv2D(filters, 1, use_bias=False)(y))
        return layers.Add()([x, y]) if strides == 1 and filters == x.shape[-1] else y

    def block(x, width):
        local = convolution(convolution(x, width), width, 1)
        _, height, wide, _ = local.shape
        y = layers.Reshape((4, height * wide // 4, width))(local)
        for _ in range(2):
            z = layers.LayerNormalization()(y)
            y = layers.Add()([y, layers.MultiHeadAttention(2, width)(z, z)])
            z = layers.Dense(2 * width, activation="swish")(layers.LayerNormalization()(y))
            y = layers.Add()([y, layers.Dense(width)(z)])
        y = convolution(layers.Reshape((height, wide, width))(y), x.shape[-1], 1)
        return convolution(layers.Concatenate()([x, y]), width)

    x = convolution(image, 8, strides=2)
    x = inverted_residual(inverted_residual(x, 8), 16, strides=2)
    x = block(x, 16)
    x = layers.GlobalAveragePooling2D()(convolution(x, 32, 1))
    return keras.Model(image, layers.Dense(CLASSES)(x)), smooth(count, 32, 32, 3)


def u_net(count):
    image = keras.Input((32, 32, 3))

    def twice(x, filters):
        for _ in range(2):
            x = layers.Conv2D(filters, 3, padding="same", use_bias=False)(x)
            x = layers.ReLU()(layers.BatchNormalization()(x))
        return x

    first = twice(image, 8)
    second = twice(layers.MaxPooling2D()(first), 16)
    x = twice(layers.MaxPooling2D()(second), 32)
    x = layers.Conv2DTranspose(16, 3, strides=2, padding="same")(x)
    x = twice(layers.Concatenate()([x, second]), 16)
    x = layers.UpSampling2D()(x)
    x = twice(layers.Concatenate()([x, first]), 8)
    return keras.Model(image, layers.Conv2D(3, 1)(x)), smooth(count, 32, 32, 3)


def efficient_net_like(count):
    image = keras.Input((32, 32, 3))

    def block(x, filters, strides):
        y = layers.Conv2D(4 * x.shape[-1], 1, use_bias=False)(x)
        y = layers.Activation("swish")(layers.BatchNormalization()(y))
        y = layers.DepthwiseConv2D(3, strides=strides, padding="same", use_bias=False)(y)
        y = layers.Activation("swish")(layers.BatchNormalization()(y))
        gate = layers.GlobalAveragePooling2D(keepdims=True)(y)
        gate = layers.Conv2D(max(x.shape[-1] // 4, 1), 1, activation="swish")(gate)
        gate = layers.Conv2D(y.shape[-1], 1, activation="sigmoid")(gate)
        y = layers.Multiply()([y, gate])
        y = layers.BatchNormalization()(layers.Conv2D(filters, 1, use_bias=False)(y))
        return layers.Add()([x, y]) if strides == 1 and filters == x.shape[-1] else y

    x = layers.Conv2D(8, 3, strides=2, padding="same", use_bias=False)(image)
    x = layers.Activation("swish")(layers.BatchNormalization()(x))
    for filters, strides in ((8, 1), (12, 2), (12, 1)):
        x = block(x, filters, strides)
    x = layers.Dropout(0.2)(layers.GlobalAveragePooling2D()(x))
    return keras.Model(image, layers.Dense(CLASSES)(x)), smooth(count, 32, 32, 3)


def hard_swish_net(count):
    image = keras.Input((32, 32, 3))

    def hard_sigmoid(x):
        return layers.ReLU(6.0)(x + 3.0) * (1.0 / 6.0)

    def hard_swish(x):
        return layers.Multiply()([hard_sigmoid(x), x])

    x = layers.Conv2D(8, 3, strides=2, padding="same", use_bias=False)(image)
    x = hard_swish(layers.BatchNormalization()(x))
    for filters in (16, 24):
        y = layers.DepthwiseConv2D(3, strides=2, padding="same", use_bias=False)(x)
        y = layers.Activation("hard_swish")(layers.BatchNormalization()(y))
        gate = layers.GlobalAveragePooling2D(keepdims=True)(y)
        gate = layers.Conv2D(4, 1, activation="relu")(gate)
        gate = hard_sigmoid(layers.Conv2D(y.shape[-1], 1)(gate))
        x = layers.Conv2D(filters, 1, activation="hard_swish")(layers.Multiply()([y, gate]))
    x = layers.GlobalAveragePooling2D()(x)
    return keras.Model(image, layers.Dense(CLASSES)(x)), smooth(count, 32, 32, 3)


@keras.saving.register_keras_serializable("architectures")
class ResidualBlock(keras.Model):
    """Two convolutions and a shortcut, which is projected where sizes differ."""

    def __init__(self, filters, strides=1, **kwargs):
        super().__init__(**kwargs)
        self.settings = {"filters": filters, "strides": strides}
        self.conv1 = layers.Conv2D(filters, 3, strides=strides, padding="same", use_bias=False)
        self.conv2 = layers.Conv2D(filters, 3, padding="same", use_bias=False)
        self.norm1, self.norm2 = layers.BatchNormalization(), layers.BatchNormalization()
        self.shortcut = layers.Conv2D(filters, 1, strides=strides) if strides > 1 else None

    def call(self, x, training=None):
        y = ops.relu(self.norm1(self.conv1(x), training=training))
        y = self.norm2(self.conv2(y), training=training)
        return ops.relu(y + (x if self.shortcut is None else self.shortcut(x)))

    def get_config(self):
        return {**super().get_config(), **self.settings}


@keras.saving.register_keras_serializable("architectures")
class SubclassedResNet(keras.Model):
    """Residual blocks that meet in Python code only."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.stem = layers.Conv2D(8, 3, padding="same")
        self.blocks = [ResidualBlock(8), ResidualBlock(16, 2)]
        self.pool = layers.GlobalAveragePooling2D()
        self.logits = layers.Dense(CLASSES)

    def call(self, x, training=None):
        x = self.stem(x)
        for block in self.blocks:
            x = block(x, training=training)
        return self.logits(self.pool(x))


def subclassed_resnet(count):
    images = smooth(count, 16, 16, 3)
    model = SubclassedResNet()
    model(images[:2])
    return model, images


def siamese(count):
    encoder = keras.Sequential(
        [
            keras.Input((16, 16, 1)),
            layers.Conv2D(8, 3, activation="relu"),
            layers.MaxPooling2D(),
            layers.Conv2D(16, 3, activation="relu"),
            layers.GlobalAveragePooling2D(),
            layers.Dense(16, activation="tanh"),
        ],
        name="encoder",
    )
    left, right = keras.Input((16, 16, 1), name="left"), keras.Input((16, 16, 1), name="right")
    first, second = encoder(left), encoder(right)
    x = layers.Concatenate()([ops.abs(first - second), first * second])
    model = keras.Model([left, right], layers.Dense(2)(x))
    return model, [smooth(count, 16, 16, 1), smooth(count, 16, 16, 1, seed=1)]


def autoencoder(count):
    image = keras.Input((16, 16, 1))
    x = image
    for filters in (8, 4):
        x = layers.Conv2D(filters, 3, activation="relu", padding="same")(x)
        x = layers.MaxPooling2D(padding="same")(x)
    for filters in (4, 8):
        x = layers.Conv2DTranspose(filters, 3, strides=2, activation="relu", padding="same")(x)
    x = layers.Conv2D(1, 3, activation="sigmoid", padding="same")(x)
    images = 1.0 / (1.0 + np.exp(-smooth(count, 16, 16, 1)))
    return keras.Model(image, x), images.astype("float32")


def deep_lab_like(count):
    image = keras.Input((32, 32, 3))

    def block(x, filters=16, kernel=3, dilation=1):
        x = layers.Conv2D(filters, kernel, dilation_rate=dilation, padding="same", use_bias=False)(
            x
        )
        return layers.ReLU()(layers.BatchNormalization()(x))

    x = low = block(layers.Conv2D(8, 3, strides=2, padding="same", activation="relu")(image))
    x = block(layers.Conv2D(16, 3, strides=2, padding="same", activation="relu")(x))
    pooled = layers.AveragePooling2D(pool_size=(8, 8))(x)
    pooled = layers.UpSampling2D((8, 8), interpolation="bilinear")(block(pooled, kernel=1))
    scales = [block(x, kernel=1), *(block(x, dilation=rate) for rate in (2, 4))]
    x = block(layers.Concatenate()([pooled, *scales]), kernel=1)
    x = layers.UpSampling2D((2, 2), interpolation="bilinear")(x)
    x = block(layers.Concatenate()([x, block(low, 8, 1)]))
    x = layers.UpSampling2D((2, 2), interpolation="bilinear")(x)
    return keras.Model(image, layers.Conv2D(4, 1)(x)), smooth(count, 32, 32, 3)


# Text, sound and series


@keras.saving.register_keras_serializable("architectures")
class TransformerBlock(layers.Layer):
    """Attention and two dense layers, normalized behind each."""

    def __init__(self, width, heads, hidden, **kwargs):
        super().__init__(**kwargs)
        self.settings = {"width": width, "heads": heads, "hidden": hidden}
        self.attention = layers.MultiHeadAttention(heads, width)
        self.hidden = keras.Sequential(
            [layers.Dense(hidden, activation="relu"), layers.Dense(width)]
        )
        self.norms = [layers.LayerNormalization(epsilon=1e-6) for _ in range(2)]
        self.dropout = layers.Dropout(0.1)

    def call(self, x, training=None):
        y = self.dropout(self.attention(x, x), training=training)
        x = self.norms[0](x + y)
        return self.norms[1](x + self.dropout(self.hidden(x), training=training))

    def get_config(self):
        return {**super().get_config(), **self.settings}


@keras.saving.register_keras_serializable("architectures")
class TokenAndPosition(layers.Layer):
    """Adds the embedding of each position to that of the word there."""

    def __init__(self, length, width, **kwargs):
        super().__init__(**kwargs)
        self.settings = {"length": length, "width": width}
        self.token = layers.Embedding(WORDS, width)
        self.position = layers.Embedding(length, width)

    def call(self, x):
        return self.token(x) + self.position(ops.arange(x.shape[-1]))

    def get_config(self):
        return {**super().get_config(), **self.settings}


def text_transformer(count):
    text = keras.Input((20,), dtype="int32")
    x = TransformerBlock(32, 2, 32)(TokenAndPosition(20, 32)(text))
    x = layers.Dropout(0.1)(layers.GlobalAveragePooling1D()(x))
    x = layers.Dense(20, activation="relu")(x)
    return keras.Model(text, layers.Dense(2)(x)), words(count, 20)


def bidirectional_lstm(count):
    text = keras.Input((12,), dtype="int32")
    x = layers.Embedding(WORDS, 16)(text)
    x = layers.Bidirectional(layers.LSTM(8, return_sequences=True))(x)
    x = layers.Bidirectional(layers.LSTM(8))(x)
    return keras.Model(text, layers.Dense(2)(x)), words(count, 12)


def gru(count):
    series = keras.Input((12, 4))
    x = layers.GRU(12, return_sequences=True)(series)
    x = layers.GRU(8)(x)
    return keras.Model(series, layers.Dense(3)(x)), smooth(count, 12, 4)


def wave_net(count):
    wave = keras.Input((64, 1))
    x = layers.Conv1D(8, 2, padding="causal")(wave)
    skips = []
    for rate in (1, 2, 4, 8):
        filtered = layers.Conv1D(8, 2, padding="causal", dilation_rate=rate, activation="tanh")(x)
        gate = layers.Conv1D(8, 2, padding="causal", dilation_rate=rate, activation="sigmoid")(x)
        y = layers.Multiply()([filtered, gate])
        skips.append(layers.Conv1D(8, 1)(y))
        x = layers.Add()([x, layers.Conv1D(8, 1)(y)])
    x = layers.Conv1D(16, 1, activation="relu")(layers.ReLU()(layers.Add()(skips)))
    return keras.Model(wave, layers.Conv1D(CLASSES, 1)(x)), smooth(count, 64, 1)


def temporal_convolutions(count):
    series = keras.Input((32, 4))
    x = series
    for rate in (1, 2, 4):
        y = x
        for _ in range(2):
            y = layers.Conv1D(12, 3, padding="causal", dilation_rate=rate)(y)
            y = layers.ReLU()(layers.LayerNormalization()(y))
            y = layers.SpatialDropout1D(0.1)(y)
        x = layers.ReLU()(layers.Add()([layers.Conv1D(12, 1)(x), y]))
    return keras.Model(series, layers.Dense(3)(x[:, -1, :])), smooth(count, 32, 4)


def ctc(count):
    spectrogram = keras.Input((32, 24))
    x = layers.Reshape((32, 24, 1))(spectrogram)
    for _ in range(2):
        x = layers.Conv2D(8, 3, strides=(1, 2), padding="same", use_bias=False)(x)
        x = layers.ReLU()(layers.BatchNormalization()(x))
    x = layers.Reshape((32, -1))(x)
    x = layers.Bidirectional(layers.GRU(8, return_sequences=True))(x)
    x = layers.Dropout(0.2)(layers.Dense(16, activation="relu")(x))
    return keras.Model(spectrogram, layers.Dense(12)(x)), smooth(count, 32, 24)


# Points, tables and graphs


def point_net(count):
    points = keras.Input((64, 3))

    def convolution(x, filters):
        x = layers.BatchNormalization(momentum=0.0)(layers.Conv1D(filters, 1)(x))
        return layers.Activation("relu")(x)

    def dense(x, filters):
        x = layers.BatchNormalization(momentum=0.0)(layers.Dense(filters)(x))
        return layers.Activation("relu")(x)

    def transformed(x):
        features = x.shape[-1]
        y = layers.GlobalMaxPooling1D()(convolution(convolution(x, 8), 16))
        y = layers.Dense(features * features, kernel_initializer="zeros",
                         bias_initializer=keras.initializers.Constant(np.eye(features).ravel()))(
            dense(y, 8)
        )  # fmt: skip
        return layers.Dot(axes=(2, 1))([x, layers.Reshape((features, features))(y)])

    x = transformed(convolution(transformed(points), 8))
    x = layers.GlobalMaxPooling1D()(convolution(convolution(x, 16), 32))
    x = layers.Dropout(0.3)(dense(x, 16))
    generator = np.random.default_rng(0)
    return (
        keras.Model(points, layers.Dense(CLASSES)(x)),
        generator.uniform(-1, 1, (count, 64, 3)).astype("float32"),
    )


def two_tower(count):
    user, item = keras.Input((1,), dtype="int32"), keras.Input((1,), dtype="int32")

    def tower(x):
        x = layers.Flatten()(layers.Embedding(WORDS, 16)(x))
        return layers.Dense(8)(layers.Dense(16, activation="relu")(x))

    x = layers.Dot(axes=1)([tower(user), tower(item)])
    return keras.Model([user, item], x), [words(count, 1), words(count, 1, seed=1)]


def wide_and_deep(count):
    numbers = keras.Input((6,), name="numbers")
    kinds = [keras.Input((1,), dtype="int32", name=f"kind_{i}") for i in range(3)]
    encoded = [layers.CategoryEncoding(8, output_mode="one_hot")(kind) for kind in kinds]
    embedded = [layers.Reshape((4,))(layers.Embedding(8, 4)(kind)) for kind in kinds]
    wide = layers.BatchNormalization()(layers.Concatenate()([numbers, *encoded]))
    deep = layers.Concatenate()([numbers, *embedded])
    for units in (16, 16):
        deep = layers.ReLU()(layers.BatchNormalization()(layers.Dense(units)(deep)))
        deep = layers.Dropout(0.1)(deep)
    x = layers.Dense(3)(layers.Concatenate()([wide, deep]))
    given = {"numbers": smooth(count, 6)}
    given |= {f"kind_{i}": words(count, 1, seed=i) % 8 for i in range(3)}
    return keras.Model({"numbers": numbers, **{k.name: k for k in kinds}}, x), given


@keras.saving.register_keras_serializable("architectures")
class GraphConvolution(layers.Layer):
    """Gathers the neighbors of each node, prepares their messages, and updates the node."""

    def __init__(self, units, **kwargs):
        super().__init__(**kwargs)
        self.units = units
        self.prepare = layers.Dense(units, activation="gelu")
        self.update = layers.Dense(units, activation="gelu")

    def call(self, nodes, neighbors):
        messages = self.prepare(ops.take_along_axis(
            ops.expand_dims(nodes, 1), ops.expand_dims(neighbors, -1), axis=2
        ))  # fmt: skip
        together = ops.concatenate([nodes, ops.mean(messages, axis=2)], axis=-1)
        return self.update(together)

    def get_config(self):
        return {**super().get_config(), "units": self.units}


def graph_network(count):
    nodes, neighbors = keras.Input((12, 8)), keras.Input((12, 3), dtype="int32")
    x = layers.Dense(16)(nodes)
    for _ in range(2):
        x = layers.Add()([x, GraphConvolution(16)(x, neighbors)])
    model = keras.Model([nodes, neighbors], layers.Dense(4)(x))
    return model, [smooth(count, 12, 8), words(count, 36).reshape(count, 12, 3) % 12]


ARCHITECTURES = {
    "ViT with custom layers": vision_transformer,
    "MLP-Mixer": mlp_mixer,
    "ConvMixer": conv_mixer,
    "MobileViT": mobile_vit,
    "U-Net": u_net,
    "EfficientNet-like": efficient_net_like,
    "Hard-swish network": hard_swish_net,
    "Subclassed ResNet": subclassed_resnet,
    "Siamese": siamese,
    "Autoencoder": autoencoder,
    "DeepLab-like": deep_lab_like,
    "Text transformer": text_transformer,
    "BiLSTM": bidirectional_lstm,
    "GRU": gru,
    "WaveNet": wave_net,
    "TCN": temporal_convolutions,
    "CTC": ctc,
    "PointNet": point_net,
    "Two-tower": two_tower,
    "Wide and deep": wide_and_deep,
    "Graph network": graph_network,
}
