"""One small member of each family of keras.applications, with random weights, and images for it."""

# The module in keras.applications and the smallest size of images that suits the architecture.
MODELS = {
    "VGG16": ("vgg16", 32),
    "ResNet50": ("resnet50", 32),
    "ResNet50V2": ("resnet_v2", 32),
    "DenseNet121": ("densenet", 32),
    "InceptionV3": ("inception_v3", 75),
    "Xception": ("xception", 71),
    "MobileNet": ("mobilenet", 32),
    "MobileNetV2": ("mobilenet_v2", 32),
    "MobileNetV3Small": ("mobilenet_v3", 32),
    "EfficientNetB0": ("efficientnet", 32),
    "EfficientNetV2B0": ("efficientnet_v2", 32),
    "NASNetMobile": ("nasnet", 32),
    "ConvNeXtTiny": ("convnext", 32),
}
CLASSES = 10
IMAGES = 32


def images_of(size, count=None):
    """Return smooth random images from 0 to 255, each of another mean, contrast and pattern."""
    import numpy as np
    import tensorflow as tf

    count = count or IMAGES
    generator = np.random.default_rng(0)
    coarse = generator.normal(size=(count, 4, 4, 3))
    smooth = tf.image.resize(coarse, (size, size), method="bicubic").numpy()
    contrast = generator.uniform(20, 80, (count, 1, 1, 1))
    mean = generator.uniform(64, 192, (count, 1, 1, 3))
    return np.clip(mean + contrast * smooth, 0, 255).astype("float32")


def build(name, count=None):
    """Return a model with random weights and images for it, preprocessed as its family does it."""
    import keras

    keras.utils.set_random_seed(0)
    module, size = MODELS[name]
    module = getattr(keras.applications, module)
    model = getattr(keras.applications, name)(
        weights=None,
        input_shape=(size, size, 3),
        classes=CLASSES,
        classifier_activation=None,
    )
    images = module.preprocess_input(images_of(size, count))
    set_batch_statistics(model, images)
    return model, images


def set_batch_statistics(model, images):
    """Let every BatchNormalization divide by the root of the mean square of its inputs.

    With its initial statistics, activations of a deep model with random weights vanish or explode;
    with the mean taken off as well, such a model magnifies every rounding.
    """
    import keras
    import numpy as np

    norms = [
        layer
        for layer in model._flatten_layers()
        if isinstance(layer, keras.layers.BatchNormalization)
    ]
    momenta = [layer.momentum for layer in norms]
    for layer in norms:
        layer.momentum = 0.0
    model(images, training=True)
    for layer, momentum in zip(norms, momenta, strict=True):
        layer.momentum = momentum
        mean, variance = np.asarray(layer.moving_mean), np.asarray(layer.moving_variance)
        layer.moving_variance.assign(variance + mean**2)
        layer.moving_mean.assign(np.zeros_like(mean))
