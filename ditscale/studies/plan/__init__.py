"""The cost of a study before it runs."""
