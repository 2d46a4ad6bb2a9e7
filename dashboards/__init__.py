"""Pages, charts and live sockets."""

from importlib.metadata import PackageNotFoundError, version

try:
    VERSION = version("dcops")
except PackageNotFoundError:
    # A checkout that was not installed, as in a test of a clean clone.
    VERSION = "0"
