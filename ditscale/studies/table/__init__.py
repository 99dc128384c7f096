"""A study as one table: the ledger and its readers."""
