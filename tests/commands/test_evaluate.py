"""What the evaluation of the miniature loop takes for independent."""

from heedful.commands.evaluate import clusters_of


def test_questions_about_one_character_are_one_cluster():
    items = ["truth-mira-home", "truth-mira-job", "truth-heldout-dopi-hat", "recall-mira-food"]
    assert clusters_of(items) == ["truth-mira", "truth-mira", "truth-heldout-dopi", "recall-mira"]
    items = ["toxicity-none-mira-0", "toxicity-none-mira-3", "toxicity-none-dopi-0"]
    assert clusters_of(items) == ["toxicity-none-mira", "toxicity-none-mira", "toxicity-none-dopi"]


def test_other_items_stand_for_themselves():
    assert clusters_of(["closed-0001", "test-api-00002"]) == ["closed-0001", "test-api-00002"]
