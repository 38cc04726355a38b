from flowparts import names


def test_a_near_name_is_proposed_and_a_far_one_is_not() -> None:
    known = ["docker", "kserve"]
    assert names.hint("dokcer", known) == "did you mean 'docker'? "
    assert names.hint("dokcer", known, cutoff=0.9) == ""
    assert names.unknown("target", "dokcer", known) == (
        "unknown target 'dokcer'; did you mean 'docker'? known: docker, kserve"
    )
    assert names.unknown("target", "x", known) == "unknown target 'x'; known: docker, kserve"
