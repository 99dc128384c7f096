"""One page for a whole study: sentences first, then figures, tables, fits, and how to reproduce it."""
