"""Laws hold for whatever Hypothesis draws: few examples, always the same ones, nothing stored."""

from hypothesis import settings

settings.register_profile("laws", max_examples=12, deadline=None, database=None, derandomize=True)
settings.load_profile("laws")
