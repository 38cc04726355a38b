from typing import List, NamedTuple, Optional  # noqa: UP035 - kfp reads a list of artifacts from typing.List only

from kfp.dsl import HTML, Input, Model, Output

from .. import runs_in


@runs_in("base")
def select_best(
    candidates: Input[List[Model]],  # noqa: UP006
    model: Output[Model],
    selection_report: Output[HTML],
    metric: Optional[str] = None,
    earlier: Input[Model] = None,  # type: ignore[assignment] # kfp's form of an optional one
) -> NamedTuple("Outputs", [("estimator", str), ("score", float)]):  # type: ignore[valid-type]
    """Pick the candidate model with the best validation score.

    Only the candidates' metadata is read; the winner is copied completely. Ties go to the smaller model, then
    to the first by estimator name and parameters.

    Args:
        candidates: Models for the same task and label, trained in parallel.
        model: The winner; its metadata also lists the candidates, best first.
        selection_report: HTML page that ranks the candidates by validation score, with their parameters.
        metric: Validation metric to compare by, such as accuracy, f1, roc_auc, log_loss, rmse, mae or r2;
            default: roc_auc for classification, rmse for regression.
        earlier: Winner of an earlier round, which competes too; its candidates are listed as well.

    Returns:
        estimator: Class name of the winner's estimator.
        score: The winner's validation score.
    """
    from flowparts import models
    from flowparts.train import selection
    from flowparts.util import metadata, outputs, trees

    all_candidates = [*candidates, *([earlier] if earlier is not None else [])]
    found = [models.metadata(candidate.path) for candidate in all_candidates]
    choice = selection.rank(found, metric)
    winner = choice.order[0]
    before = [] if earlier is None else found[-1].get("candidates") or []
    with outputs.atomic(model.path) as partial:
        trees.copy(all_candidates[winner].path, partial)
        stored = models.annotate(partial, {"candidates": selection.ranking(found, choice, before)})
    metadata.describe(model, stored)
    outputs.write_text(selection_report.path, selection.selection_report(found, choice))
    return str(found[winner]["estimator"]), choice.scores[0]
