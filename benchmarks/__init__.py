"""`python -m benchmarks.engines` compares engines, `python -m benchmarks.plot` draws the page."""
