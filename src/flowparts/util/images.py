"""Decode, resize and measure encoded images, and convert them to and from JSON.

An image column holds the original bytes of image files, but a model takes pixels of one size. Training and
serving both decode and resize with Pillow here, because ONNX has no decoder.
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

# Common formats that Pillow decodes itself.
FORMATS = ("BMP", "GIF", "JPEG", "PNG", "TIFF", "WEBP")
# A small file can unpack to any number of pixels.
MAX_PIXELS = 100_000_000
# Maximum side in pixels of the copy that statistics are measured on.
_MEASURED = 256
# Weight of a pixel in a request: WebP's decoder holds a picture four times, and while copying it blocks the
# interpreter, health checks included.
_COSTS = {"WEBP": 4}
# Maximum bytes per call of a decoder. With Pillow's 64 KB, a large WebP takes 1,500 calls, each of which
# releases the interpreter's lock: with two other busy threads it took five times as long, and delayed both.
_BLOCK_BYTES = 1 << 24
_MODES = {1: "L", 3: "RGB"}
# Names of the measures of `statistics`.
STATISTICS = ("width", "height", "kilobytes", "brightness", "contrast", "red", "green", "blue")
_DAMAGES = (OSError, SyntaxError, EOFError, IndexError, TypeError, ArithmeticError)


@dataclass(frozen=True)
class Size:
    """The image size that a model takes.

    Attributes:
        height: Height in pixels.
        width: Width in pixels.
        channels: 1 for grey, 3 for red, green and blue.
    """

    height: int
    width: int
    channels: int

    def __post_init__(self) -> None:
        """Raise ValueError if a value is out of range."""
        for name in ("height", "width"):
            if not 1 <= getattr(self, name) <= 4096:
                raise ValueError(f"{name} must be from 1 to 4096 pixels, not {getattr(self, name)}")
        if self.channels not in _MODES:
            raise ValueError(f"channels must be 1 (grey) or 3 (colour), not {self.channels}")


def dimensions(content: bytes) -> tuple[int, int]:
    """Decode an image completely and return its width and height in pixels, as a viewer shows it.

    Raises:
        ValueError: It isn't an image, is damaged or too large.
    """
    width, height = _opened(content).size
    return width, height


def statistics(content: bytes) -> dict[str, float]:
    """Measure an image.

    Returns:
        width and height in pixels, kilobytes of the file, brightness and contrast (mean and standard
        deviation of grey), and the means of red, green and blue, from 0 to 255.

    Raises:
        ValueError: It isn't an image, is damaged or too large.
    """
    import numpy as np

    width, height = dimensions(content)
    (colours,) = pixels([content], Size(min(height, _MEASURED), min(width, _MEASURED), 3)).astype(float)
    grey = colours @ np.array([0.299, 0.587, 0.114])
    red, green, blue = colours.mean(axis=(0, 1))
    measures = (width, height, len(content) / 1000, grey.mean(), grey.std(), red, green, blue)
    return {name: float(value) for name, value in zip(STATISTICS, measures, strict=True)}


def pixels(contents: Sequence[bytes], size: Size) -> "npt.NDArray[np.uint8]":
    """Decode images, rotate them by their EXIF orientation, and resize them (bilinear with antialiasing).

    Args:
        contents: Encoded images.
        size: Size to convert each image to.

    Returns:
        An array of shape (images, height, width, channels).

    Raises:
        ValueError: One isn't an image, is damaged or too large.
    """
    import numpy as np
    from PIL import Image

    found = np.empty((len(contents), size.height, size.width, size.channels), np.uint8)
    for index, content in enumerate(contents):
        image = _opened(content)
        if image.mode in ("I;16", "I"):
            # Pillow would clip 16-bit values at 255.
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
    """Raise ValueError if the images of a request together have more pixels than one image may.

    Pixels of WebP count fourfold. Only the headers are read. Invalid images are left to the decoder.
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
                f"the images have more than {MAX_PIXELS:,} pixels in total (WebP counts fourfold); "
                "send fewer or smaller ones"
            )


def to_text(content: bytes) -> str:
    """Encode an image for JSON as base64."""
    return base64.b64encode(content).decode()


def from_text(text: str) -> bytes:
    """Decode an image from base64.

    Raises:
        ValueError: The text isn't base64.
    """
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise ValueError(f"an image in JSON must be base64 text, not {text[:40]!r}") from None


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
                "make it smaller"
            )
        image.decodermaxblock = _BLOCK_BYTES
        image.load()
        kind = image.format
        ImageOps.exif_transpose(image, in_place=True)  # doesn't copy images without a rotation
    except (UnidentifiedImageError, Image.DecompressionBombError):
        raise ValueError(f"it isn't an image in one of the formats {', '.join(FORMATS)}") from None
    # Each decoder raises different errors for damaged files.
    except _DAMAGES as error:
        raise ValueError(f"the image is damaged: {errors.first_line(error)}") from None
    image.format = kind
    return image
