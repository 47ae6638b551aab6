"""Benchmarks, and the plain networks that they and the tests compare against."""

import base.program  # noqa: F401  # first: it answers Ctrl-C while the rest is imported
