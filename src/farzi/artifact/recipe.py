"""What an artifact's recipe says of the student and its training, checked when it is asked for.

A recipe is free JSON: an artifact can be looked at, loaded and exported whatever it says. Only what
trains by it needs these fields, and an untrusted one must not make a student of absurd size.
"""

from __future__ import annotations

from typing import Any

from farzi.artifact.checks import check_type, short
from farzi.artifact.contents import Artifact
from farzi.artifact.layout import SETTINGS
from farzi.errors import ArtifactError

__all__ = ["recipe_decay", "recipe_dropout", "recipe_number", "recipe_rate", "recipe_student"]

_MOST = 1 << 16  # of any size of a student but the vocabulary
_MOST_PARAMETERS = 1 << 32


def recipe_student(artifact: Artifact) -> dict[str, Any]:
    """Return the settings of the student that an artifact was distilled for.

    Raises:
        ArtifactError: they are missing, or a size is not one that a student can have.
    """
    settings = artifact.recipe.get("student")
    field = f"{SETTINGS}: `recipe.student`"
    if settings is None:
        raise ArtifactError(f"{field} is missing: the artifact does not say what to train on it.")
    if type(settings) is not dict:
        raise ArtifactError(f"{field} must be an object, got {type(settings).__name__}.")
    name = settings.get("name")
    if type(name) is not str or not name:
        raise ArtifactError(
            f"{SETTINGS}: `recipe.student.name` must be a name, got {short(repr(name))}."
        )
    for key, value in settings.items():
        is_number = type(value) in (int, float)
        most = artifact.vocabulary_size if key == "num_tokens" else _MOST
        if is_number and not 0 <= value <= most:
            raise ArtifactError(
                f"{SETTINGS}: `recipe.student.{short(key)}` must be from 0 to {most:,}, "
                f"got {short(repr(value))}."
            )
    known = settings.get("num_tokens", artifact.vocabulary_size)
    if known != artifact.vocabulary_size:
        raise ArtifactError(
            f"{SETTINGS}: `recipe.student.num_tokens` is {short(repr(known))}, and the artifact "
            f"has {artifact.vocabulary_size:,} tokens."
        )
    if _parameters(settings, artifact.vocabulary_size) > _MOST_PARAMETERS:
        raise ArtifactError(f"{field} has more than {_MOST_PARAMETERS:,} parameters.")
    return dict(settings)


def recipe_number(artifact: Artifact, name: str, kind: type[int] | type[float]) -> Any:
    """Return a number of a recipe, such as its rate or its batch size.

    Args:
        artifact: whose recipe.
        name: the field.
        kind: int or float.

    Raises:
        ArtifactError: it is missing, of another type, not above 0, or absurd.
    """
    if name not in artifact.recipe:
        raise ArtifactError(f"{SETTINGS}: `recipe.{name}` is missing.")
    value = artifact.recipe[name]
    try:
        check_type(name, value, (int, float) if kind is float else int)
    except ArtifactError:
        wrong = type(value).__name__
        raise ArtifactError(
            f"{SETTINGS}: `recipe.{name}` must be {kind.__name__}, got {wrong}."
        ) from None
    if not 0 < value <= _MOST:
        shown = short(repr(value))
        raise ArtifactError(
            f"{SETTINGS}: `recipe.{name}` must be above 0 and at most {_MOST:,}, got {shown}."
        )
    return kind(value)


def recipe_rate(artifact: Artifact) -> float | None:
    """Return the step size of a recipe for AdamW, with which models are trained on artifacts.

    Returns:
        None where it is of another optimiser: a rate of SGD is a hundred times that of AdamW, and
        says nothing of it.

    Raises:
        ArtifactError: it is missing, or is no number that it can be.
    """
    if artifact.recipe.get("optimizer", "adam") not in ("adam", "adamw"):
        return None
    return float(recipe_number(artifact, "lr", float))


def recipe_decay(artifact: Artifact) -> float:
    """Return the weight decay of a recipe for AdamW: 0 unless that was its inner optimiser.

    Raises:
        ArtifactError: it is no number that it can be.
    """
    if artifact.recipe.get("optimizer") != "adamw" or not artifact.recipe.get("weight_decay"):
        return 0.0
    return float(recipe_number(artifact, "weight_decay", float))


def recipe_dropout(artifact: Artifact) -> float:
    """Return the dropout of a recipe: 0 where it names none, as recipes before it did not.

    Raises:
        ArtifactError: it is no rate.
    """
    if not artifact.recipe.get("dropout"):
        return 0.0
    rate = float(recipe_number(artifact, "dropout", float))
    if not rate < 1:
        raise ArtifactError(f"{SETTINGS}: `recipe.dropout` must be below 1, got {rate:g}.")
    return rate


def _parameters(settings: dict[str, Any], vocabulary: int) -> int:
    """Return about how many parameters a student of these sizes has, rather too few."""

    def size(key: str) -> int:
        value = settings.get(key, 1)
        return value if type(value) is int else 1

    width = size("width")
    return (vocabulary + size("context_length")) * width + size("num_layers") * width * width
