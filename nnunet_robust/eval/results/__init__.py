"""A sweep's output folder: tables, failures, display names."""
