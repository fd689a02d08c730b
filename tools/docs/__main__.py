"""`python -m tools.docs`: writes docs/api/. Run it after a change of a public name or of its docstring."""

import os
from pathlib import Path

from tools.docs.reference import pages


def main() -> None:
    """Writes the pages that are not up to date, and removes those that are no longer made."""
    # `bazel run` says where the working copy is; elsewhere this file lies in it.
    root = Path(os.environ.get("BUILD_WORKSPACE_DIRECTORY") or Path(__file__).parents[2])
    folder = root / "docs" / "api"
    folder.mkdir(exist_ok=True)
    made = pages(root)
    for name, text in made.items():
        (folder / name).write_text(text, "utf-8")
    for page in folder.glob("*.md"):
        if page.name not in made:
            page.unlink()
    print(f"wrote {len(made)} pages to {folder.relative_to(root)}")


if __name__ == "__main__":
    main()
