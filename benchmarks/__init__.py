"""Benchmarks, and the plain networks that they and the tests compare against."""
