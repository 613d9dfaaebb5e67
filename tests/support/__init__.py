"""Helpers of the test modules."""
