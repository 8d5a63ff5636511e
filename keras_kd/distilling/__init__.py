"""Distilling."""
