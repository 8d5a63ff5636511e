"""Tf keras bridge."""
