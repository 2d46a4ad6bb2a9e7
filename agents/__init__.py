"""The node daemon. It shares only `dcops.wire` and `dcops.domain` with the server."""
