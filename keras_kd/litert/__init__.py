"""TFLite files: what they hold, and running them in LiteRT."""
