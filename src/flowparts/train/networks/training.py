"""Train a network: epochs with early stopping, a learning-rate schedule, checkpoints and progress."""

import json
import logging
import math
import os
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any

from flowparts.train.networks.checkpoints import Checkpoints
from flowparts.util import progress

SCHEDULES = ("cosine", "constant")

_STEPS_AT_ONCE = 32

_log = logging.getLogger("flowparts")


@dataclass(frozen=True)
class Options:
    """Options of a network's training.

    Attributes:
        epochs: Maximum number of epochs.
        batch_size: Rows per step.
        learning_rate: Initial learning rate (Adam).
        schedule: "cosine" to fall to 0 over all epochs, or "constant".
        patience: Epochs without a lower validation loss after which training stops; 0 for all epochs.
        seed: Seed of the initial weights, the order of the rows and dropout.
        checkpoint_seconds: Minimum seconds between checkpoints.
    """

    epochs: int
    batch_size: int
    learning_rate: float
    schedule: str
    patience: int
    seed: int
    checkpoint_seconds: float

    def __post_init__(self) -> None:
        """Raise ValueError if an option is out of range."""
        require_at_least_one(self, "epochs", "batch_size")
        if not 0 < self.learning_rate < float("inf"):
            raise ValueError(f"learning_rate must be more than 0, not {self.learning_rate:g}")
        if self.schedule not in SCHEDULES:
            raise ValueError(f"schedule must be one of {', '.join(SCHEDULES)}, not {self.schedule!r}")
        if self.patience < 0:
            raise ValueError(f"patience must be 0 or more epochs, not {self.patience}")
        if not self.checkpoint_seconds >= 0:
            raise ValueError(f"checkpoint_seconds must be 0 or more, not {self.checkpoint_seconds:g}")

    def described(self) -> dict[str, Any]:
        """Return the options that affect the result, for the model's metadata."""
        return {
            name: value for name, value in asdict(self).items() if name not in ("seed", "checkpoint_seconds")
        }


def require_at_least_one(options: object, *names: str) -> None:
    """Raise ValueError unless these attributes of options are 1 or more."""
    for name in names:
        if getattr(options, name) < 1:
            raise ValueError(f"{name} must be at least 1, not {getattr(options, name)}")


def require_dropout(rate: float) -> None:
    """Raise ValueError unless this is a dropout rate."""
    if not 0 <= rate < 1:
        raise ValueError(f"dropout must be at least 0 and less than 1, not {rate:g}")


@dataclass
class Trained:
    """A trained network.

    Attributes:
        model: The Keras model, with the weights of its best epoch.
        history: Name of a metric to its value in each epoch.
        best_epoch: Number of the best epoch, from 1.
        resumed_at: Epochs done by an earlier, interrupted attempt.
    """

    model: Any
    history: dict[str, list[float]]
    best_epoch: int
    resumed_at: int = 0


@dataclass
class _State:
    history: dict[str, list[float]] = field(default_factory=dict)
    best: float = sys.float_info.max  # JSON has no infinity
    best_epoch: int = 0


def start(seed: int) -> Any:
    """Seed TensorFlow, and return its distribution strategy; must precede any other use of TensorFlow.

    It is spread over the workers that TF_CONFIG names (see
    https://www.tensorflow.org/guide/distributed_training#TF_CONFIG), over the GPUs here, or not at all.
    """
    import keras
    import tensorflow as tf

    spread: Any
    if workers() > 1:
        spread = _many_workers()
    elif len(devices()) > 1:
        spread = tf.distribute.MirroredStrategy(devices())
    else:
        spread = tf.distribute.get_strategy()
    # Restarts the numbers in names of layers.
    keras.utils.clear_session()
    keras.utils.set_random_seed(seed)
    tf.config.experimental.enable_op_determinism()
    return spread


def _many_workers() -> Any:
    import tensorflow as tf

    class ManyWorkers(tf.distribute.MultiWorkerMirroredStrategy):
        def reduce(self, reduce_op: Any, value: Any, axis: Any) -> Any:
            if isinstance(value, tuple):
                # Keras wants a batch for its shapes alone; TensorFlow reduces one tensor at a time.
                return tf.nest.map_structure(lambda each: self.experimental_local_results(each)[0], value)
            # Of measures, which are scalars, it asks for the mean along their first axis.
            scalar = not self.experimental_local_results(value)[0].shape.rank
            return super().reduce(reduce_op, value, None if scalar else axis)

    return ManyWorkers()


def workers() -> int:
    """Return the number of processes that train together, from TF_CONFIG."""
    cluster = _tf_config().get("cluster", {})
    return max(1, len(cluster.get("chief", ())) + len(cluster.get("worker", ())))


def is_chief() -> bool:
    """Return whether this process is the worker that writes the results."""
    found = _tf_config()
    task = found.get("task", {})
    first = "chief" if found.get("cluster", {}).get("chief") else "worker"
    return workers() == 1 or (task.get("type") == first and task.get("index") == 0)


def devices() -> list[str]:
    """Return the names of this machine's GPUs."""
    import tensorflow as tf

    return [f"GPU:{number}" for number in range(len(tf.config.list_physical_devices("GPU")))]


def precision() -> str:
    """Return Keras' dtype policy for hidden layers: 16 bits if a GPU multiplies them faster."""
    return "mixed_float16" if devices() else "float32"


def fit(
    spread: Any,
    build: Callable[[str], Any],
    train: Any,
    validation: Any,
    rows: int,
    options: Options,
    checkpoints: Checkpoints | None,
    loss: str,
    measures: list[str],
    seeds: "Seeds",
) -> Trained:
    """Train until all epochs are done or the validation loss stops falling; keep the best weights.

    Args:
        spread: What `start` returned.
        build: Makes the network, its hidden layers of the given dtype policy.
        train: `feed.dataset` of the training rows, which takes its seeds from `seeds`.
        validation: `feed.dataset` of the validation rows.
        rows: Number of training rows.
        options: How to train.
        checkpoints: Where to resume an interrupted attempt and store states; None to keep none.
        loss: Keras' name of the loss.
        measures: Keras' names of further metrics, for the learning curves.
        seeds: Returns the seed of each pass over the training rows.
    """
    import keras

    steps = -(-rows // options.batch_size)
    with spread.scope():
        found = checkpoints.newest() if checkpoints else None
        if found:
            model, stored, best_weights = found
            state = _State(**stored)
        else:
            model, state, best_weights = build(precision()), _State(), None
            rate: Any = options.learning_rate
            if options.schedule == "cosine":
                rate = keras.optimizers.schedules.CosineDecay(rate, steps * options.epochs)
            model.compile(
                optimizer=keras.optimizers.Adam(rate),
                loss=loss,
                weighted_metrics=measures,
                # On a CPU, XLA's compilation takes longer than it saves.
                jit_compile="auto" if precision() != "float32" else False,
                # Keras' Python code between two executions takes as long as a small step.
                steps_per_execution=_STEPS_AT_ONCE if spread.num_replicas_in_sync == 1 else 1,
            )
    done = len(next(iter(state.history.values()), []))
    if done:
        _log.info(
            "training: resuming after epoch %d of %d, which an interrupted try had done", done, options.epochs
        )
    watch = _watch(state, best_weights, options, checkpoints, seeds)
    if not _is_over(state, options):
        model.fit(
            train,
            validation_data=validation,
            epochs=options.epochs,
            initial_epoch=done,
            callbacks=[watch],
            shuffle=False,
            verbose=0,
        )
    if not state.best_epoch:
        raise ValueError(
            f"the loss is not finite after {options.epochs} epochs; "
            f"lower the learning rate ({options.learning_rate:g})"
        )
    # One that isn't spread: it answers here, whatever other workers do, and everywhere in full precision.
    keras.utils.clear_session()
    alone = build("float32")
    alone.set_weights(watch.best_weights)
    return Trained(alone, state.history, state.best_epoch, done)


class Seeds:
    """Seeds of each epoch for the rows' order and dropout, the same in every attempt."""

    def __init__(self, seed: int):
        self._seed, self._epoch = seed, 0

    def start(self, epoch: int, model: Any) -> None:
        """Start the seeds of an epoch."""
        self._epoch = epoch
        # Archives don't hold how far layers have come with theirs.
        found = [
            getattr(layer, "seed_generator", None) or getattr(layer, "generator", None)
            for layer in model.layers
        ]
        for index, generator in enumerate(filter(None, found), 1):
            generator.state.assign([hash((self._seed, epoch, index)) % 2**32, 0])

    def __iter__(self) -> "Seeds":
        return self

    def __next__(self) -> int:
        return hash((self._seed, self._epoch)) % 2**32


def _tf_config() -> dict[str, Any]:
    found: dict[str, Any] = json.loads(os.environ.get("TF_CONFIG") or "{}")
    return found


def _is_over(state: _State, options: Options) -> bool:
    done = len(next(iter(state.history.values()), []))
    waited = done - state.best_epoch
    return done >= options.epochs or bool(
        options.patience and state.best_epoch and waited >= options.patience
    )


def _watch(
    state: _State, best_weights: Any, options: Options, checkpoints: Checkpoints | None, seeds: Seeds
) -> Any:
    """Return the Keras callback that logs epochs, keeps the best weights, stops early and stores states."""
    import keras

    class Watch(keras.callbacks.Callback):
        def __init__(self) -> None:
            super().__init__()
            self.best_weights = best_weights
            self._stored = self._start = time.monotonic()
            self._first = len(next(iter(state.history.values()), []))

        def on_epoch_begin(self, epoch: int, logs: dict[str, float] | None = None) -> None:  # noqa: ARG002
            seeds.start(epoch, self.model)

        def on_epoch_end(self, epoch: int, logs: dict[str, float] | None = None) -> None:
            for name, value in (logs or {}).items():
                state.history.setdefault(name, []).append(float(value))
            loss = state.history["val_loss"][-1]
            if loss < state.best:
                state.best, state.best_epoch = loss, epoch + 1
                self.best_weights = self.model.get_weights()
            seconds = time.monotonic() - self._start
            done = epoch + 1 - self._first
            line = progress.line("training", done, options.epochs - self._first, "epochs", seconds)
            shown = ", ".join(f"{name} {values[-1]:.5g}" for name, values in state.history.items())
            _log.info("%s: %s", line, shown.replace("val_", "validation "))
            self.model.stop_training = _is_over(state, options)
            if not all(math.isfinite(values[-1]) for values in state.history.values()):
                # The loss won't become finite again.
                self.model.stop_training = True
            elif checkpoints and is_chief() and time.monotonic() - self._stored >= options.checkpoint_seconds:
                checkpoints.write(epoch + 1, self.model, asdict(state), self.best_weights)
                self._stored = time.monotonic()

    return Watch()
