"""One page for a whole study: words first, then figures, tables, fits, and how to make it again."""
