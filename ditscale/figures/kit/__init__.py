"""What figures share: style, tables, labels, the command line."""
