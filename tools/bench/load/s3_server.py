"""moto's S3 in a process of its own: stores a file under s3://models/, prints its endpoint, ends with its stdin."""

import sys
from pathlib import Path

from zml.testing.servers.s3 import s3


def main() -> None:
    """Serves the file that is named on the command line."""
    path = Path(sys.argv[1])
    with s3() as server:
        server.bucket("models")
        server.put("models", path.name, path.read_bytes())
        server.open_to_all("models")
        print(server.url, flush=True)
        sys.stdin.read()


if __name__ == "__main__":
    main()
