"""Quantization: models that compute as files of few bits do."""
