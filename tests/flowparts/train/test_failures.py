from flowparts.train import failures

MANY = [("LGBM", f"it failed on {rows} rows") for rows in (3, 5, 8)] + [("XGB", "it is odd"), ("Ridge", "no")]


def test_reasons_that_differ_in_numbers_only_are_one_cause_and_the_most_frequent_is_first() -> None:
    assert failures.causes([MANY[3], *MANY[:3]]) == ["LGBM (3 times): it failed on 3 rows", "XGB: it is odd"]
    # The same reason of two estimators is two causes.
    assert failures.causes([("LGBM", "no"), ("XGB", "no")]) == ["LGBM: no", "XGB: no"]
    assert failures.causes([]) == []


def test_a_message_names_three_causes_and_counts_the_others() -> None:
    short = failures.in_short(MANY)
    assert short == "LGBM (3 times): it failed on 3 rows; XGB: it is odd; Ridge: no"
    assert failures.in_short([*MANY, ("SVC", "a"), ("SVC", "b")]).endswith("Ridge: no; and 2 more causes")
    assert failures.in_short([*MANY, ("SVC", "a")]).endswith("Ridge: no; and 1 more cause")


def test_only_long_reasons_are_shortened() -> None:
    refused = (
        "estimator 'RandomForestClassifier' can't be trained on this table: the label has one class only"
    )
    both = failures.in_short([("RandomForestClassifier", refused), ("XGB", refused)])
    assert both == f"RandomForestClassifier: {refused}; XGB: {refused}"
    assert failures.in_short([("LGBM", "long words " * 40)]) == f"LGBM: {'long words ' * 26}long..."
