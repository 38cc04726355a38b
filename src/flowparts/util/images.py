"""Encoded images: what they are, their pixels, and their form in JSON.

An image column holds the bytes of image files as they are. A model takes pixels of one size: whoever feeds
it decodes and resizes with Pillow here, in training and in serving alike, because ONNX has no decoder.
"""

import base64
import binascii
import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from flowparts.util import errors

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

# Formats whose decoders are in Pillow itself and that people store pictures in.
FORMATS = ("BMP", "GIF", "JPEG", "PNG", "TIFF", "WEBP")
# A small file can unpack to any number of pixels.
MAX_PIXELS = 100_000_000
# Pixels of a side beyond which an image is shrunk to be measured.
_MEASURED = 256
# In a request, a pixel counts as so many: WebP's decoder holds a picture four times, and while it copies one
# it keeps the interpreter from everything else, health checks too.
_COSTS = {"WEBP": 4}
_MODES = {1: "L", 3: "RGB"}
# What `statistics` measures.
STATISTICS = ("width", "height", "kilobytes", "brightness", "contrast", "red", "green", "blue")
_DAMAGES = (OSError, SyntaxError, EOFError, IndexError, TypeError, ArithmeticError)


@dataclass(frozen=True)
class Size:
    """The pixels that a model takes.

    Attributes:
        height: Rows.
        width: Columns.
        channels: 1 for grey, 3 for red, green and blue.
    """

    height: int
    width: int
    channels: int

    def __post_init__(self) -> None:
        """Raise ValueError unless there can be such pixels."""
        for name in ("height", "width"):
            if not 1 <= getattr(self, name) <= 4096:
                raise ValueError(f"{name} must be from 1 to 4096 pixels, not {getattr(self, name)}")
        if self.channels not in _MODES:
            raise ValueError(f"channels must be 1 (grey) or 3 (colour), not {self.channels}")


def dimensions(content: bytes) -> tuple[int, int]:
    """Decode an image whole and return its width and height in pixels, as a viewer shows it.

    Raises:
        ValueError: It is no image, is damaged or too large.
    """
    width, height = _opened(content).size
    return width, height


def statistics(content: bytes) -> dict[str, float]:
    """Measure an image.

    Returns:
        width and height in pixels, kilobytes of the file, brightness and contrast (mean and standard
        deviation of grey), and the means of red, green and blue, from 0 to 255.

    Raises:
        ValueError: It is no image, is damaged or too large.
    """
    import numpy as np

    width, height = dimensions(content)
    (colours,) = pixels([content], Size(min(height, _MEASURED), min(width, _MEASURED), 3)).astype(float)
    grey = colours @ np.array([0.299, 0.587, 0.114])
    red, green, blue = colours.mean(axis=(0, 1))
    measures = (width, height, len(content) / 1000, grey.mean(), grey.std(), red, green, blue)
    return {name: float(value) for name, value in zip(STATISTICS, measures, strict=True)}


def pixels(contents: Sequence[bytes], size: Size) -> "npt.NDArray[np.uint8]":
    """Decode images, turn them as their EXIF says and resize them, bilinear with antialiasing.

    Args:
        contents: Encoded images.
        size: What to make of each.

    Returns:
        An array of images, height, width and channels.

    Raises:
        ValueError: One is no image, is damaged or too large.
    """
    import numpy as np
    from PIL import Image

    found = np.empty((len(contents), size.height, size.width, size.channels), np.uint8)
    for index, content in enumerate(contents):
        image = _opened(content)
        if image.mode in ("I;16", "I"):
            # Pillow would cut 16 bits off at 255.
            values = np.array(image)
            values >>= 8
            image = Image.fromarray(values.clip(0, 255, out=values).astype(np.uint8))
        if image.mode != (mode := _MODES[size.channels]):
            # Pillow would copy what needs no conversion, and hold up all other threads for it.
            image = image.convert(mode)
        if image.size != (size.width, size.height):
            image = image.resize((size.width, size.height), Image.Resampling.BILINEAR)
        found[index] = np.asarray(image).reshape(found.shape[1:])
    return found


def require_affordable(contents: Sequence[bytes]) -> None:
    """Raise ValueError if the images of one request have more pixels in all than one image may.

    Pixels of WebP count fourfold. Only the heads are read. What is no image is left to whoever decodes it.
    """
    from PIL import Image, UnidentifiedImageError

    total = 0
    for content in contents:
        try:
            with Image.open(io.BytesIO(content), formats=FORMATS) as image:
                total += image.width * image.height * _COSTS.get(image.format or "", 1)
        except (UnidentifiedImageError, *_DAMAGES):
            continue
        except Image.DecompressionBombError:
            total = MAX_PIXELS + 1
        if total > MAX_PIXELS:
            raise ValueError(
                f"the images have more than {MAX_PIXELS:,} pixels in all (WebP counts fourfold); "
                "send fewer or smaller ones"
            )


def to_text(content: bytes) -> str:
    """Return an image as JSON holds it: base64."""
    return base64.b64encode(content).decode()


def from_text(text: str) -> bytes:
    """Return an image of its base64.

    Raises:
        ValueError: It is no base64.
    """
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise ValueError(f"an image in JSON is base64 text; {text[:40]!r} is none") from None


def media_type(content: bytes) -> str:
    """Return the media type of an image, such as image/png."""
    from PIL import Image

    return Image.MIME[_opened(content).format or "PNG"]


def _opened(content: bytes) -> Any:
    from PIL import Image, ImageOps, UnidentifiedImageError

    if not content:
        raise ValueError("the image is empty")
    try:
        image = Image.open(io.BytesIO(content), formats=FORMATS)
        if image.width * image.height > MAX_PIXELS:
            raise ValueError(
                f"the image has {image.width} x {image.height} pixels, more than {MAX_PIXELS:,}; "
                f"make it smaller"
            )
        image.load()
        kind = image.format
        ImageOps.exif_transpose(image, in_place=True)  # without a copy of what isn't turned
    except (UnidentifiedImageError, Image.DecompressionBombError):
        raise ValueError(f"it is no image in one of the formats {', '.join(FORMATS)}") from None
    # Each decoder has errors of its own for damaged files.
    except _DAMAGES as error:
        raise ValueError(f"the image is damaged: {errors.first_line(error)}") from None
    image.format = kind
    return image
