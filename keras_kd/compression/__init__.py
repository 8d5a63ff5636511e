"""Compression: stages that change a student while its teacher keeps teaching."""
