from typing import NamedTuple, Optional

from kfp.dsl import Input, Model

from .. import runs_in


@runs_in("sklearn")
def suggest_trials(
    earlier: Input[Model] = None,  # type: ignore[assignment] # kfp's form of an optional one
    task: str = "classification",
    space: Optional[dict] = None,
    trials: int = 4,
    early_stopping_rounds: int = 50,
    seed: int = 0,
) -> NamedTuple("Outputs", [("Output", list)]):  # type: ignore[valid-type] # kfp.local loops over no other name
    """Suggest the next estimators and parameters to train, each in a separate step, from earlier trials.

    For a search in rounds: a dsl.ParallelFor over the output trains each trial with train_sklearn, and
    select_best takes the best of this round and the earlier ones. Every round needs the same space and
    another suggest_trials. The first trial of each estimator has its default parameters, TPE (Optuna)
    suggests the others; the same inputs and seed give the same trials.

    Args:
        earlier: Winner of the earlier rounds, from select_best, whose metadata lists all trials so far.
        task: What is learned, classification or regression.
        space: As for tune_model.
        trials: Number of trials in this round.
        early_stopping_rounds: For the trials whose estimator can stop early; 0 to train them all.
        seed: Seed of the suggestions.

    Returns:
        Output: A mapping for each trial, of estimator, parameters and early_stopping_rounds (0 where the
            estimator can't stop early), as train_sklearn takes them.
    """
    from flowparts import models
    from flowparts.tune import rounds
    from flowparts.tune import space as spaces

    checked = spaces.check(space, task)
    tried = [] if earlier is None else models.metadata(earlier.path).get("candidates") or []
    suggested = [
        {
            "estimator": each.estimator,
            "parameters": each.parameters,
            "early_stopping_rounds": early_stopping_rounds if each.stops_early else 0,
        }
        for each in rounds.suggest(checked, task, tried, trials, seed)
    ]
    return (suggested,)
