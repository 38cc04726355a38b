from kfp.dsl import Artifact, Input

from .. import STORES, runs_in


@runs_in("base", secrets=STORES)
def mark_data_seen(mark: Input[Artifact], state_uri: str) -> None:
    """Record that a run has used the data that new_data_arrived or decide_retraining found.

    Put it after the last step that must succeed, such as register_champion: until then, every run sees the
    data as new. A higher mark in the file is kept. Must run with caching off.

    Args:
        mark: High-water mark of the rows, from the step that found them.
        state_uri: The same file as that of the step that wrote the mark; empty to record nothing.
    """
    from flowparts.monitor import new_data
    from flowparts.util import outputs

    found = new_data.parse(outputs.read_json(mark.path, "the mark"), "the mark")
    if state_uri:
        new_data.remember(state_uri, found)
