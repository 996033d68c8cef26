"""Experiments: grids of training runs, made one by one or side by side, and what they show."""
