"""Command line: see report.py."""

import sys

from tools.platforms.report import main

sys.exit(main(sys.argv))
