"""From a sweep file to run directories and back to one table."""
