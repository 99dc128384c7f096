"""A study as one table: the ledger and what reads it."""
