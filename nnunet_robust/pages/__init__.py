"""What every HTML page shares: templates, rendering, tables, plots, wording."""
