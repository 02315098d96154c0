"""What all tests share."""

from hypothesis import settings

# The same examples in every run, and no clock: a busy machine must not turn a pass into a failure.
settings.register_profile("gate", derandomize=True, deadline=None)
settings.load_profile("gate")
