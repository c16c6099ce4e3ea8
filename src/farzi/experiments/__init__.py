"""Full data, samples of it and distilled data, tuned alike and scored side by side."""
