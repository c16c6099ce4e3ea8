"""How the states are had again on the way back: one strategy a file."""

from __future__ import annotations

from farzi.metagrad.adjoints.auto import Auto
from farzi.metagrad.adjoints.base import Adjoint
from farzi.metagrad.adjoints.checkpointed import Checkpointed
from farzi.metagrad.adjoints.direct import Direct
from farzi.metagrad.adjoints.reversible import Reversible
from farzi.metagrad.adjoints.stored import Stored

__all__ = ["Adjoint", "Auto", "Checkpointed", "Direct", "Reversible", "Stored"]
