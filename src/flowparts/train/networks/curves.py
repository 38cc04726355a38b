"""The page of a training: learning curves."""

from flowparts import reports
from flowparts.train.networks.training import Options, Trained


def page(trained: Trained, options: Options, subtitle: str) -> str:
    """Return an HTML page with a chart of each metric, on training and validation rows.

    Args:
        trained: History of the training.
        options: Options of the training.
        subtitle: What was trained.
    """
    history, best = trained.history, trained.best_epoch
    done = len(history["loss"])
    measures = [name for name in history if not name.startswith("val_")]
    charts = [
        reports.lines(
            {
                "training": (range(1, done + 1), history[name]),
                "validation": (range(1, done + 1), history[f"val_{name}"]),
            },
            "epoch",
            name.replace("_", " "),
        )
        for name in sorted(measures, key=lambda name: name != "loss")
    ]
    return reports.page(
        "Learning curves",
        reports.facts(
            {
                "best epoch": best,
                "validation loss": history["val_loss"][best - 1],
                "epochs": f"{done} of {options.epochs}",
                "batch size": options.batch_size,
            }
        ),
        reports.callout(*_verdict(trained, options)),
        reports.section("Did it learn?", reports.grid(*charts)),
        reports.section(
            "Every epoch",
            reports.table(
                [
                    {
                        "epoch": epoch + 1,
                        **{
                            name.replace("val_", "validation ").replace("_", " "): values[epoch]
                            for name, values in history.items()
                        },
                    }
                    for epoch in range(done)
                ]
            ),
        ),
        subtitle=subtitle,
    )


def _verdict(trained: Trained, options: Options) -> tuple[str, str]:
    done, best = len(trained.history["loss"]), trained.best_epoch
    kept = f"The weights of epoch {best} were kept."
    if best == options.epochs:
        return (
            f"The validation loss was still falling in the last epoch; more epochs may help. {kept}",
            "note",
        )
    if done < options.epochs:
        return (
            f"Training stopped after {done} epochs, {done - best} of them without a lower validation loss. "
            + kept,
            "good",
        )
    return f"The validation loss was lowest in epoch {best} of {done}. {kept}", "good"
