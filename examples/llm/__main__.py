"""`python -m examples.llm`, without Bazel."""

import sys

from examples.llm.main import main

sys.exit(main(sys.argv))
