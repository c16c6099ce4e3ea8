"""Experiments: rows side by side over splits and seeds, and their tables."""
