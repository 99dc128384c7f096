"""One HTML page per study: sentences first, then figures, tables, fits, and how to reproduce it."""
