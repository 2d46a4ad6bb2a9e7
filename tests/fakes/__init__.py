"""Devices and networks that answer from a script."""
