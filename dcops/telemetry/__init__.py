"""Telemetry: what nodes report, from the socket to the chart."""
