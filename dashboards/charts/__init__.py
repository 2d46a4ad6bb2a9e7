"""Pure functions from rows to what a chart draws."""
