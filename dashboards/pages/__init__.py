"""One module per page: read, shape, render."""
