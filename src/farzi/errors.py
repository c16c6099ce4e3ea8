"""The failures a caller can act on.

Every error farzi raises on purpose is a `FarziError`. Errors of the engine carry the inner
`step` and the `tensor` they concern, where there is one. A bad argument is a plain `ValueError`.
"""

from __future__ import annotations

__all__ = [
    "ArtifactError",
    "DataError",
    "FarziError",
    "InPlaceError",
    "MemoryBudgetError",
    "NonDeterministicError",
    "NonFiniteError",
    "NotReversibleError",
    "NotTwiceDifferentiableError",
    "RunLockedError",
    "SaturationError",
    "SettingsError",
    "StochasticLossError",
]


class FarziError(Exception):
    """Base of every failure a caller can act on.

    Args:
        message: one line that states the fact and, where there is one, a way out.
        step: the inner step (0-based) at which it happened, or None.
        tensor: name of the tensor it concerns, or None.

    Example:
        >>> from farzi.errors import NonFiniteError
        >>> NonFiniteError("the inner loss is nan", step=3, tensor="weight").step
        3
    """

    def __init__(self, message: str, *, step: int | None = None, tensor: str | None = None) -> None:
        super().__init__(message)
        self.step = step
        self.tensor = tensor


class NonFiniteError(FarziError):
    """A loss, a state or a gradient became infinite or NaN."""


class StochasticLossError(FarziError):
    """The inner loss drew from a global random generator and no `seed` was given."""


class NonDeterministicError(FarziError):
    """The inner loss gave different bits for the same inputs."""


class NotTwiceDifferentiableError(FarziError):
    """The inner loss has no second derivative that autograd can take."""


class NotReversibleError(FarziError):
    """The optimiser's step cannot be undone, or undoing it did not arrive at the start."""


class SaturationError(FarziError):
    """A state left the range of its fixed-point format."""


class InPlaceError(FarziError):
    """The inner loss changed one of its inputs in place."""


class MemoryBudgetError(FarziError):
    """No adjoint fits in the memory that is allowed."""


class DataError(FarziError):
    """The data cannot be used as they are: missing column, unparsable row, empty split."""


class ArtifactError(FarziError):
    """An artifact is broken, unsafe, or does not belong to this source and split."""


class SettingsError(FarziError):
    """A setting or flag is unknown, out of range, or contradicts another."""


class LostProcessError(FarziError):
    """Another process of the same run has ended."""


class RunLockedError(FarziError):
    """Another process is writing to this run folder."""
