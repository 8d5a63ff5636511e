"""The demonstration: what a teacher is worth where labels are few, from one command."""
