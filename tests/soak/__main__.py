"""`python -m tests.soak`: see tests/bench/harness.py."""

import sys

from tests.bench.harness import main

sys.exit(main("soak", "tests.soak"))
