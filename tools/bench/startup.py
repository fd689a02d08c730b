"""What it takes to start: an empty Python, `import zml`, jax, a platform, and the llm example's --help.

python -m tools.bench.startup [--rounds=7] [--json]
"""

import argparse
import json
import statistics
import subprocess
import sys
import time

from tools.bench import environment

STEPS = {
    "python": ["-c", "pass"],
    "import zml": [
        "-c",
        "import zml, sys; assert 'jax' not in sys.modules and 'jaxlib' not in sys.modules",
    ],
    "import jax": ["-c", "import jax"],
    "Platform.init": ["-c", "import zml; zml.Platform.init('cpu')"],
    "llm --help": ["-m", "examples.llm", "--help"],
}


def seconds(arguments: list[str], rounds: int) -> float:
    """The median of whole processes, after one that warms the page cache."""
    times = []
    for _ in range(rounds + 1):
        began = time.perf_counter()
        subprocess.run(
            [sys.executable, *arguments], check=True, stdout=subprocess.DEVNULL, env=environment()
        )
        times.append(time.perf_counter() - began)
    return statistics.median(times[1:])


def main() -> None:
    """Prints a row each, and what it adds to an empty Python."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    found = {name: seconds(arguments, options.rounds) for name, arguments in STEPS.items()}
    if options.json:
        print(json.dumps({name: round(value, 4) for name, value in found.items()}))
        return
    for name, value in found.items():
        print(f"  {name:<14} {value:6.3f} s  ({value - found['python']:+.3f} s)")


if __name__ == "__main__":
    main()
