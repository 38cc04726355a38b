from kfp.dsl import Artifact, Input

from .. import STORES, runs_in


@runs_in("base", secrets=STORES)
def mark_data_seen(mark: Input[Artifact], memory: str) -> None:
    """Remember that a run has used the data that new_data_arrived or decide_retraining found.

    Put it after the last step that must succeed, such as register_champion: until then each run finds the
    data new. A mark that is higher already stays. It must run with caching off.

    Args:
        mark: How far the rows go.
        memory: The same file as that of the step that wrote the mark; empty to remember nothing.
    """
    from flowparts.monitor import new_data
    from flowparts.util import outputs

    found = new_data.parse(outputs.read_json(mark.path, "the mark"), "the mark")
    if memory:
        new_data.remember(memory, found)
