"""Settings for all tests."""

from __future__ import annotations

from hypothesis import HealthCheck, settings

# Time limits per example mean nothing on a noisy machine; the same examples each run keep CI's verdict reproducible.
settings.register_profile(
    "dpf", deadline=None, derandomize=True, max_examples=60, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("dpf")
