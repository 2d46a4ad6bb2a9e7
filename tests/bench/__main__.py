"""`python -m tests.bench`: see tests/bench/harness.py."""

import sys

from tests.bench.harness import main

sys.exit(main("bench", "tests.bench"))
