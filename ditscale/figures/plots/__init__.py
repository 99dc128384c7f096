"""A figure a file."""
