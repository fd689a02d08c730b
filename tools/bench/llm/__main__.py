"""`python -m tools.bench.llm`, without Bazel."""

import sys

from tools.bench.llm.main import main

sys.exit(main())
