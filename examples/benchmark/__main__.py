"""`python -m examples.benchmark`, without Bazel."""

import sys

from examples.benchmark.main import main

sys.exit(main(sys.argv))
