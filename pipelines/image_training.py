from kfp import dsl

from flowparts.components.ingest.ingest_images import ingest_images
from flowparts.components.prepare.split_table import split_table
from flowparts.components.train.train_keras_images import train_keras_images
from flowparts.components.validate.validate_table import validate_table
from flowparts.pipelines._judgement import judge_and_deploy


@dsl.pipeline(name="image-training", display_name="Train on images")
def image_training(
    source: str = "sample://digits",
    data_version: str = "",
    uri_column: str = "uri",
    label_column: str = "label",
    on_bad_images: str = "quarantine",
    min_class_rows: int = 3,
    schema_uri: str = "",
    weights: str = "",
    height: int = 8,
    width: int = 8,
    channels: int = 1,
    epochs: int = 12,
    augment: float = 0.05,
    checkpoints: str = "",
    metric: str = "",
    model_name: str = "image-training",
    margin: float = 0.0,
    floor: float = 0.0,
    replace_champion: bool = False,
    tracking_uri: str = "",
    seed: int = 0,
    deploy_target: str = "",
    endpoint_name: str = "image-training",
    deploy_options: dict = {},
) -> None:
    """Train a convolutional network on images, show its mistakes, and register it if it beats the champion.

    Args:
        source: The images: a directory whose folders are labels (a path or a URI that starts with file://,
            s3:// or gs://), a table of URIs and labels (CSV, Parquet or JSON Lines), or sample://digits.
        data_version: Version of the images; change it when the files behind the source have changed, so that
            no cached results are used.
        uri_column: Column with the images' locations, for a table of URIs.
        label_column: Column with the images' labels, for a table of URIs.
        on_bad_images: What to do with damaged images: quarantine or fail.
        min_class_rows: Minimum number of images of a class; images of rarer classes are left out (the log and
            the run's page name them). 1 to keep every class.
        schema_uri: Reviewed schema (JSON, a path or URI) that the table must satisfy; empty to infer one.
        weights: Path or URI of a .keras archive to start from; empty to train from scratch.
        height: Height in pixels that images are resized to.
        width: Width in pixels that images are resized to.
        channels: 3 for colour, 1 for grey.
        epochs: Maximum number of epochs.
        augment: How far training images are shifted, scaled and rotated at random, from 0 to 0.5.
        checkpoints: Path or URI of a folder for checkpoints that persists between attempts, from which an
            interrupted training resumes; empty for run.py's own folder, or none on a cluster.
        metric: Metric to promote by; empty for roc_auc, or average_precision if one of two classes has fewer
            than 5 % of the training rows.
        model_name: Name of the model in the registry.
        margin: How much better than the champion a model must be to be promoted, in units of the metric.
        floor: Worst score with which a first model is promoted, in units of the metric; 0 to require only
            that it beats a constant prediction (the most frequent class, or the mean).
        replace_champion: Whether to replace a champion that can't be compared because it has another label,
            task, classes or columns, or has seen nearly all test rows; otherwise the new model is refused.
        tracking_uri: MLflow server; empty for the environment's MLFLOW_TRACKING_URI or a local SQLite file.
        seed: Seed of the split, the training and the bootstrap.
        deploy_target: Where to deploy a new champion, as a canary at first: docker, kubernetes, kserve,
            seldon, vertex or sagemaker; empty for nowhere.
        endpoint_name: Name of the endpoint to deploy to.
        deploy_options: The target's own options, as its deploy component takes them.
    """
    table = ingest_images(
        source=source,
        data_version=data_version,
        uri_column=uri_column,
        label_column=label_column,
        on_bad_images=on_bad_images,
    ).outputs["table"]
    # Never cached: an edit of a reviewed schema behind the same URI can't be detected.
    validated = validate_table(
        table=table,
        schema_uri=schema_uri,
        task="classification",
        metric=metric,
        model_name=model_name,
        margin=margin,
        floor=floor,
        deploy_target=deploy_target,
        endpoint_name=endpoint_name,
        deploy_options=deploy_options,
    ).set_caching_options(False)
    # By content, so that copies of an image under two paths stay together.
    parts = split_table(
        table=table,
        key=["image"],
        stratify_by="label",
        task="classification",
        min_class_rows=min_class_rows,
        seed=seed,
    )
    model = (
        train_keras_images(
            train=parts.outputs["train"],
            validation=parts.outputs["validation"],
            weights=weights,
            height=height,
            width=width,
            channels=channels,
            augment=augment,
            epochs=epochs,
            checkpoints=checkpoints,
            seed=seed,
        )
        .after(validated)
        .outputs["model"]
    )
    judge_and_deploy(
        model=model,
        test=parts.outputs["test"],
        slice_columns=[],
        metric=metric,
        model_name=model_name,
        margin=margin,
        floor=floor,
        replace_champion=replace_champion,
        tracking_uri=tracking_uri,
        seed=seed,
        deploy_target=deploy_target,
        endpoint_name=endpoint_name,
        deploy_options=deploy_options,
    )
