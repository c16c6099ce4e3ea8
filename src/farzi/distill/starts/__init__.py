"""Where latents and decoder begin: a file each, listed in `STARTS`."""

from __future__ import annotations

from farzi.distill.kinds import Kinds
from farzi.distill.starts.base import Start, StartInputs, StartRows

__all__ = ["STARTS", "Start", "StartInputs", "StartRows"]

STARTS: Kinds[Start] = Kinds(
    "start",
    {
        "artifact": "farzi.distill.starts.artifact:ArtifactStart",
        "random": "farzi.distill.starts.random:RandomStart",
        "real": "farzi.distill.starts.real:RealStart",
        "teacher": "farzi.distill.starts.teacher:TeacherStart",
    },
)
