"""Study specs: YAML into runs."""
