"""The demonstration: the whole chain on real data, from one command."""
