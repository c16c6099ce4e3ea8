"""What distilled sequences give away of the users they were made from.

Synthetic is not anonymous. Three questions, each with a number: can an attacker tell who was among
the training users; how close is each synthetic sequence to a real one; how many events of real
users can be read back from it. A further attack is a function in `attacks.py` and a line there.
"""

from __future__ import annotations

from farzi.privacy.attacks import ATTACKS, Evidence
from farzi.privacy.auditing import Attack, Audit, AuditSettings, audit_artifact
from farzi.privacy.likeness import longest_runs, nearest_real, soft_counts
from farzi.privacy.read_back import Neighbour, ReadBack
from farzi.privacy.run import AUDIT, audit, read_audit

__all__ = [
    "ATTACKS",
    "AUDIT",
    "Attack",
    "Audit",
    "AuditSettings",
    "Evidence",
    "Neighbour",
    "ReadBack",
    "audit",
    "audit_artifact",
    "longest_runs",
    "nearest_real",
    "read_audit",
    "soft_counts",
]
