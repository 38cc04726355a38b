import base64
import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from kfp import dsl
from PIL import Image

from flowparts import models, tables
from flowparts.components.train.train_keras_images import train_keras_images
from flowparts.evaluate import evaluation, evaluation_report
from flowparts.models import baseline, engines, scoring
from flowparts.prepare import preprocess
from flowparts.serving import served_model
from flowparts.serving.server_settings import Settings
from flowparts.train.networks import archive, image_model, saved_model
from flowparts.util import images

QUICK: dict[str, Any] = {"height": 8, "width": 8, "channels": 1, "filters": 8, "epochs": 6, "batch_size": 32}


def stripes(rows: int, seed: int, size: int = 8) -> pl.DataFrame:
    """Noisy images of stripes that lie or stand."""
    rng = np.random.default_rng(seed)
    contents, labels = [], []
    for index in range(rows):
        pattern = np.where(np.arange(size) // 2 % 2, 200, 40)[:, None] + np.zeros((size, size))
        pattern = (pattern.T if index % 2 else pattern) + rng.normal(0, 30, (size, size))
        stream = io.BytesIO()
        Image.fromarray(pattern.clip(0, 255).astype(np.uint8)).save(stream, "PNG")
        contents.append(stream.getvalue())
        labels.append("standing" if index % 2 else "lying")
    return pl.DataFrame({"path": [str(i) for i in range(rows)], "image": contents, "label": labels})


TRAIN, HELD_OUT = stripes(160, 1), stripes(60, 2)


@pytest.fixture(scope="module")
def train(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    def run(train: pl.DataFrame = TRAIN, validation: pl.DataFrame = HELD_OUT, **options: Any) -> Path:
        folder = tmp_path_factory.mktemp("trained")
        made = {}
        for name, frame in (("train", train), ("validation", validation)):
            tables.write(frame, folder / name)
            made[name] = dsl.Dataset(name=name, uri=str(folder / name))
        for name, kind in (
            ("model", dsl.Model),
            ("validation_metrics", dsl.Metrics),
            ("training_report", dsl.HTML),
        ):
            made[name] = kind(name=name, uri=str(folder / name))
        train_keras_images.python_func(**made, **{**QUICK, **options})
        return folder

    return run


@pytest.fixture(scope="module")
def trained(train: Callable[..., Path]) -> Path:
    return train()


def test_a_trained_network_tells_images_apart(trained: Path) -> None:
    found = models.load(trained / "model").predict(HELD_OUT)
    assert (found["prediction"] == HELD_OUT["label"]).mean() > 0.95
    assert "Learning curves" in (trained / "training_report").read_text()


def test_a_model_of_images_keeps_their_statistics_and_its_predictions(trained: Path) -> None:
    found = baseline.read(trained / "model")
    assert found.columns["image.width"].buckets.maximum == 8
    assert found.columns["image.brightness"].rows == len(TRAIN)
    assert found.columns["label"].categories.texts == ["standing", "lying"]  # by their hashes
    assert found.columns["probability_lying"].rows == len(HELD_OUT)


def test_archive_saved_model_and_onnx_agree_on_pixels(trained: Path) -> None:
    pixels = images.pixels(HELD_OUT["image"].to_list(), images.Size(8, 8, 1))
    scored = models.load(trained / "model").predict(HELD_OUT)["probability_lying"].to_numpy()
    kept = archive.load(trained / "model/model.keras")({"image": pixels}, training=False).numpy()[:, 0]
    served = saved_model.predict(trained / "model/saved_model", {"image": pixels}, "pixels")
    np.testing.assert_allclose(kept, scored, atol=1e-5)
    np.testing.assert_allclose(served["probability_lying"], scored, atol=1e-5)


def encoded(pixels: Image.Image, kind: str) -> bytes:
    stream = io.BytesIO()
    pixels.save(stream, kind, **({"quality": 95} if kind == "JPEG" else {}))
    return stream.getvalue()


@pytest.mark.parametrize(
    ("kind", "mode", "size", "tolerance"),
    [
        ("PNG", "L", 8, 1e-5),
        ("PNG", "RGB", 8, 1e-5),
        ("PNG", "P", 8, 1e-5),
        ("BMP", "L", 8, 1e-5),
        ("GIF", "L", 8, 1e-5),
        ("PNG", "RGB", 31, 0.02),
        ("JPEG", "RGB", 31, 0.05),
    ],
    ids=lambda value: str(value),
)
def test_a_saved_model_decodes_and_resizes_by_itself(
    kind: str, mode: str, size: int, tolerance: float, trained: Path
) -> None:
    drawn = [Image.open(io.BytesIO(content)).resize((size, size)) for content in HELD_OUT["image"]]
    contents = [encoded(image.convert(mode), kind) for image in drawn]
    expected = models.load(trained / "model").predict(pl.DataFrame({"image": contents}))["probability_lying"]
    for given in (contents, [base64.b64encode(content) for content in contents]):
        found = saved_model.predict(trained / "model/saved_model", {"image": np.array(given, object)})
        np.testing.assert_allclose(found["probability_lying"], expected, atol=tolerance)


def test_a_model_says_what_it_takes(trained: Path) -> None:
    stored = models.metadata(trained / "model")
    assert stored["takes"] == {
        "height": 8,
        "width": 8,
        "channels": 1,
        "encoded": ["model.onnx by flowparts", "saved_model"],
        "pixels": ["model.onnx", "saved_model, signature 'pixels'", "model.keras"],
    }
    # Images that have the model's size and lose nothing in their format.
    assert stored["decoding_difference"] < 1e-5


def test_a_server_answers_base64_as_the_model_answers_bytes(trained: Path) -> None:
    texts = [base64.b64encode(content).decode() for content in HELD_OUT["image"]]
    engine = engines.load(trained / "model")
    found = engine.predict_columns({"image": texts})["probability_lying"]
    expected = models.load(trained / "model").predict(HELD_OUT)["probability_lying"]
    np.testing.assert_allclose(found, expected.to_numpy(), atol=1e-6)
    pauses: list[int] = []
    served = served_model.load(trained / "model", Settings())
    online = served.predict([(text,) for text in texts], lambda: pauses.append(len(pauses)))
    np.testing.assert_allclose(online["probability_lying"], expected.to_numpy(), atol=1e-6)
    assert pauses == [0, 1]  # one before each 32 images
    for bad, words in (
        ("no base64!", "base64"),
        (base64.b64encode(b"x").decode(), "isn't an image"),
        (None, "missing"),
    ):
        with pytest.raises(ValueError, match=words):
            engine.predict_columns({"image": [bad]})


def test_images_of_another_size_and_format_are_brought_to_the_models(trained: Path) -> None:
    larger = []
    for content in HELD_OUT["image"]:
        stream = io.BytesIO()
        Image.open(io.BytesIO(content)).resize((48, 48)).convert("RGB").save(stream, "JPEG")
        larger.append(stream.getvalue())
    found = models.load(trained / "model").predict(pl.DataFrame({"image": larger}))
    assert (found["prediction"] == HELD_OUT["label"]).mean() > 0.9


def test_mistakes_are_shown_with_their_images(trained: Path) -> None:
    swapped = HELD_OUT.with_columns(label=HELD_OUT["label"].reverse())
    model = models.load(trained / "model")
    found = evaluation.evaluate(model, swapped.lazy(), samples=20)
    worst = found.examples[0]
    page = evaluation_report.classification_page(found)
    assert page.count("data:image/png;base64,") == len(found.examples)
    assert base64.b64encode(HELD_OUT["image"][worst["row"]]).decode() in page
    assert f"{worst['actual']} taken for {worst['predicted']} ({100 * worst['probability']:.1f} %)" in page


def test_a_table_of_something_else_is_not_scored(trained: Path) -> None:
    with pytest.raises(ValueError, match="column 'image': type, expected image, not string"):
        scoring.score(models.load(trained / "model"), pl.LazyFrame({"image": ["a"]}))


def test_equal_seeds_give_equal_models(train: Callable[..., Path], trained: Path) -> None:
    again = train()
    assert (again / "model/model.keras").read_bytes() == (trained / "model/model.keras").read_bytes()
    found, expected = (models.load(folder / "model").predict(HELD_OUT) for folder in (again, trained))
    assert found.equals(expected)


def test_training_starts_from_given_weights(train: Callable[..., Path], trained: Path) -> None:
    tuned = train(weights=str(trained / "model/model.keras"), epochs=1, height=64, learning_rate=1e-4)
    stored = models.metadata(tuned / "model")
    assert stored["parameters"]["size"] == {"height": 8, "width": 8, "channels": 1}
    found = models.load(tuned / "model").predict(HELD_OUT)
    assert found.height == HELD_OUT.height


BAD = {
    "too many blocks": ({"blocks": 5}, "too small for 5 blocks"),
    "no such channels": ({"channels": 2}, "channels must be 1 .* not 2"),
    "too much": ({"augment": 0.9}, "augment must be from 0 to 0.5, not 0.9"),
    "no image": ({"image_column": "path"}, "'path' holds String"),
    "no column": ({"image_column": "picture"}, "image column 'picture' is not in the table"),
    "no weights": ({"weights": "/nowhere.keras"}, "there is no file or directory at /nowhere.keras"),
}


@pytest.mark.parametrize(("options", "words"), BAD.values(), ids=BAD)
def test_bad_input_is_refused(options: dict[str, Any], words: str, train: Callable[..., Path]) -> None:
    with pytest.raises(ValueError, match=words):
        train(**options)


def test_a_table_with_images_is_not_for_sklearn() -> None:
    with pytest.raises(ValueError, match="'image' holds images; use train_keras_images"):
        preprocess.fit(TRAIN.lazy(), label="label", task="classification")


def test_a_training_that_failed_at_its_end_resumes_elsewhere(
    train: Callable[..., Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setenv("FLOWPARTS_CHECKPOINTS", str(tmp_path / "states"))
    with monkeypatch.context() as patch:
        patch.setattr(image_model, "save", _fail)
        with pytest.raises(OSError, match="no space left"):
            train(seed=5, checkpoint_seconds=0.0)
    with caplog.at_level("INFO", "flowparts"):
        folder = train(seed=5, checkpoint_seconds=0.0)
    assert "resuming after epoch 6 of 6" in caplog.text
    assert (folder / "model" / "MLmodel").is_file()
    assert not (tmp_path / "states").exists()


def _fail(*_: object, **__: object) -> None:
    raise OSError("no space left on device")


def test_rare_images_are_judged_by_average_precision_and_the_page_says_so(
    train: Callable[..., Path],
) -> None:
    def rare(rows: pl.DataFrame, count: int) -> pl.DataFrame:
        lying = rows.filter(pl.col("label") == "lying").head(count)
        return pl.concat([lying, rows.filter(pl.col("label") == "standing")])

    folder = train(rare(TRAIN, 3), rare(HELD_OUT, 2), epochs=1)
    stored = models.metadata(folder / "model")
    # The earlier of the two classes, since it is the rare one.
    assert stored["positive_class"] == "lying"
    assert stored["metric"] == "average_precision"
    found = evaluation.evaluate(models.load(folder / "model"), HELD_OUT.lazy(), samples=20)
    assert list(evaluation.curves(found)["precision_recall"]) == ["lying"]
    page = evaluation_report.page(found, stored["metric"])
    assert "training rows are positive (class &#39;lying&#39;), less than 5%" in page
    assert "How well does it rank? (class &#39;lying&#39;)" in page
