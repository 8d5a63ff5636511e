"""Factorizing."""
