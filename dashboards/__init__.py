"""Pages, charts and live sockets."""
