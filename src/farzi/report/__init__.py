"""What people look at: one self-contained HTML page for a run, and a live view of one at work."""

from __future__ import annotations

from farzi.report.facts import keep_comparison, read_comparison
from farzi.report.page import render_report, write_report
from farzi.report.titles import read_titles

__all__ = ["keep_comparison", "read_comparison", "read_titles", "render_report", "write_report"]
