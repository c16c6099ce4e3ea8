"""What AdamW takes of a recipe: the rate of Adam and of AdamW, and AdamW's decay alone."""

import pytest

from artifact_examples import toy_artifact
from farzi.artifact import recipe_decay, recipe_rate
from farzi.errors import ArtifactError


@pytest.mark.parametrize(
    ("optimizer", "rate", "decay"),
    [("adam", 0.5, 0.0), ("adamw", 0.5, 0.25), ("sgd", None, 0.0), ("rmsprop", None, 0.0)],
)
def test_only_what_is_of_its_own_kind(optimizer, rate, decay):
    artifact = toy_artifact(recipe={"optimizer": optimizer, "lr": 0.5, "weight_decay": 0.25})
    assert (recipe_rate(artifact), recipe_decay(artifact)) == (rate, decay)


def test_an_earlier_recipe_names_no_optimizer():
    artifact = toy_artifact(recipe={"lr": 0.5})
    assert (recipe_rate(artifact), recipe_decay(artifact)) == (0.5, 0.0)


def test_what_is_no_number_is_refused():
    artifact = toy_artifact(recipe={"optimizer": "adamw", "weight_decay": "much"})
    with pytest.raises(ArtifactError, match=r"`recipe.weight_decay` must be float, got str"):
        recipe_decay(artifact)
    with pytest.raises(ArtifactError, match=r"`recipe.lr` is missing"):
        recipe_rate(artifact)
