"""Searching the smallest file that is good enough."""
