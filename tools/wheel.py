"""Build the distribution: flowparts with its components, which have references to their images."""

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from backends import package
from tools import images

ROOT = Path(__file__).parents[1]


def build(registry: str, version: str | None, digests: Path | None, out: Path) -> Path:
    """Build a wheel in the folder `out` and return its file.

    Args:
        registry: Registry of the components' images.
        version: The images' tag; None for the tag of the images in `digests`, else of this tree.
        digests: The images.json of `make push`, which pins images.
        out: Output folder.

    Raises:
        ValueError: A reference is malformed, or an image in the file has no digest.
    """
    version = package.images_version(version, digests)
    reference = package.image_references(registry, version, digests)
    references = {image.name: reference(image.name) for image in images.find().values()}
    with tempfile.TemporaryDirectory() as folder:
        source, built = Path(folder) / "source", Path(folder) / "built"
        source.mkdir()
        ignored = shutil.ignore_patterns("__pycache__", "*.egg-info")
        shutil.copytree(ROOT / "src", source / "src", ignore=ignored)  # with the targets of its links
        for name in ("LICENSE", "README.md", "pyproject.toml"):
            shutil.copy(ROOT / name, source)
        (source / "src" / "flowparts" / "components" / "images.json").write_text(
            json.dumps(references, indent=2), encoding="utf-8"
        )
        uv = Path(sys.executable).with_name("uv")
        command = [
            str(uv),
            "build",
            "--wheel",
            "--quiet",
            "--no-build-isolation",
            f"--python={sys.executable}",
        ]
        subprocess.run([*command, f"--out-dir={built}", str(source)], check=True)  # noqa: S603
        (wheel,) = built.glob("*.whl")
        out.mkdir(parents=True, exist_ok=True)
        return Path(shutil.copy(wheel, out))


def main(arguments: list[str] | None = None) -> int:
    """Do what the command line asks for; return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m tools.wheel", description=__doc__)
    package.add_image_options(parser)
    parser.add_argument("--out", type=Path, default=Path("build"), metavar="DIR", help="(%(default)s)")
    options = parser.parse_args(arguments)
    try:
        print(build(options.registry, options.version, options.digests, options.out))  # noqa: T201
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)  # noqa: T201
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
