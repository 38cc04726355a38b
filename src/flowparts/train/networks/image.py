"""Convolutional networks of pixels, from scratch or from a pretrained network."""

from pathlib import Path
from typing import Any

from flowparts.train.networks import archive
from flowparts.util.images import Size

# A block halves height and width, which must not fall below this.
_LEAST_PIXELS = 4
# What TensorFlow decodes, of the formats of `images`.
DECODED = ("image/bmp", "image/gif", "image/jpeg", "image/png")


def convolutional(
    size: Size, blocks: int, filters: int, dropout: float, classes: int, augment: float, precision: str
) -> Any:
    """Return a network that maps uint8 pixels to the probability of each class.

    Each block is two convolutions of 3 x 3 and a pooling of 2 x 2, with twice the filters of the block
    before; see Simonyan and Zisserman, "Very Deep Convolutional Networks for Large-Scale Image Recognition"
    (2015).

    Args:
        size: Image size in pixels.
        blocks: Blocks of convolutions.
        filters: Filters of the first block.
        dropout: Dropout rate after the last block, in [0, 1).
        classes: Number of classes.
        augment: Maximum random shift, rotation and zoom while training, see `_augmented`.
        precision: Keras' dtype policy of the convolutions.
    """
    import keras

    image = keras.Input((size.height, size.width, size.channels), dtype="uint8", name="image")
    found = _augmented(keras.layers.Rescaling(1 / 255, name="scaled")(image), augment)
    for block in range(blocks):
        for part in range(2):
            layer = keras.layers.Conv2D(
                filters * 2**block,
                3,
                padding="same",
                activation="relu",
                kernel_initializer="he_normal",
                name=f"block_{block}_{part}",
                dtype=precision,
            )
            found = layer(found)
        found = keras.layers.MaxPooling2D(name=f"pool_{block}")(found)
    found = keras.layers.Flatten(name="flat")(found)
    return _classified(image, found, dropout, classes)


def fine_tuned(body: Any, size: Size, dropout: float, classes: int, augment: float) -> Any:
    """Return a network with the first layers of another one and a new last layer.

    Args:
        body: The other network without its last layer, see `body_of`; it takes pixels from 0 to 255.
        size: Image size in pixels.
        dropout: Dropout rate after the body, in [0, 1).
        classes: Number of classes.
        augment: As for `convolutional`.
    """
    import keras

    image = keras.Input((size.height, size.width, size.channels), dtype="uint8", name="image")
    pixels = _augmented(keras.layers.Rescaling(1.0, name="scaled")(image), augment)
    found = body(pixels)
    if len(found.shape) > 2:
        found = keras.layers.GlobalAveragePooling2D(name="pooled")(found)
    return _classified(image, found, dropout, classes)


def body_of(path: str | Path, name: str) -> tuple[Any, Size]:
    """Open a .keras archive of an image network; return it without its last layer, and its image size.

    Raises:
        ValueError: It can't be opened harmlessly, or takes something else than pixels of one size.
    """
    import keras

    model = archive.load(path)
    shape = model.inputs[0].shape if len(model.inputs) == 1 else ()
    if len(shape) != 4 or None in shape[1:] or len(model.layers) < 3:
        raise ValueError(
            f"the network at {name} doesn't take images of one size (height, width, channels); its "
            f"inputs are: " + ", ".join(str(tuple(tensor.shape[1:])) for tensor in model.inputs)
        )
    body = keras.Model(model.inputs, model.layers[-1].input, name="body")
    return body, Size(*shape[1:])


def decoded(contents: Any, size: Size) -> Any:
    """Decode and resize images in a TensorFlow graph, as similarly to `images.pixels` as possible.

    PNG, BMP and GIF have the same pixels, those of JPEG may differ by a few levels, and resizing by rounding.
    What EXIF says of turning isn't read.

    Args:
        contents: A vector of image files, or of their base64 as in JSON.
        size: What to make of each.

    Returns:
        uint8: images, height, width, channels.
    """
    import tensorflow as tf

    def one(content: Any) -> Any:
        is_text = tf.strings.regex_full_match(content, "[A-Za-z0-9+/]+=*")
        # TensorFlow only decodes the URL-safe alphabet.
        text = tf.strings.regex_replace(tf.strings.regex_replace(content, r"\+", "-"), "/", "_")
        content = tf.cond(is_text, lambda: tf.io.decode_base64(text), lambda: content)
        pixels = tf.io.decode_image(content, channels=3, expand_animations=False)
        if size.channels == 1:
            # Luma of ITU-R 601-2, rounded as Pillow does.
            weighed = tf.cast(pixels, tf.int32) * tf.constant([19595, 38470, 7471])
            grey = tf.reduce_sum(weighed, axis=-1, keepdims=True)
            pixels = tf.cast(tf.bitwise.right_shift(grey + 0x8000, 16), tf.uint8)
        resized = tf.image.resize(pixels, (size.height, size.width), antialias=True)
        return tf.cast(tf.clip_by_value(tf.round(resized), 0, 255), tf.uint8)

    shape = (size.height, size.width, size.channels)
    return tf.map_fn(one, contents, fn_output_signature=tf.TensorSpec(shape, tf.uint8))


def check_blocks(size: Size, blocks: int) -> None:
    """Raise ValueError if images are too small for this many blocks."""
    smallest = min(size.height, size.width)
    if smallest >> blocks < 1 or smallest < _LEAST_PIXELS:
        raise ValueError(
            f"images of {size.height} x {size.width} pixels are too small for {blocks} blocks, each of which "
            "halves them; take fewer blocks or larger images"
        )


def _augmented(image: Any, augment: float) -> Any:
    """Shift and zoom by up to this fraction of the image, and rotate by up to a tenth of it in full turns."""
    import keras

    if not augment:
        return image
    filled = {"fill_mode": "nearest"}
    image = keras.layers.RandomTranslation(augment, augment, name="moved", **filled)(image)
    image = keras.layers.RandomZoom((-augment, augment), name="zoomed", **filled)(image)
    return keras.layers.RandomRotation(augment / 10, name="turned", **filled)(image)


def _classified(image: Any, found: Any, dropout: float, classes: int) -> Any:
    import keras

    if dropout:
        found = keras.layers.Dropout(dropout, name="dropout")(found)
    answer = keras.layers.Dense(classes, activation="softmax", name="probabilities", dtype="float32")(found)
    return keras.Model({"image": image}, answer, name="image_network")
