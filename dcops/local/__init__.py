"""`dcops up`: an embedded PostgreSQL and Redis, and the processes of one machine's dcops."""
