"""Gives `mkdocs` the files of the repository, each at its own path.

A relative link then means the same file in the site and on a code host, and nothing is written
twice: the front page is `README.md`.
"""

from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).resolve().parents[2]
# files outside docs/ that pages link to
OUTSIDE = (
    "*.md",
    "LICENSE",
    "CITATION.cff",
    "configs/**/*.yaml",
    "configs/schema.json",
    "fwrl/*.py",
    "fwrl/*/__init__.py",
    "fwrl/run/config.py",
    "fwrl/python/*.py",
    "agents/*.py",
    "envs/*.py",
    "tests/agents/test_learning.py",
)
KINDS = {".md", ".png", ".csv", ".json", ".yaml", ".css"}


def title(page: Path) -> str:
    """The first heading of a page."""
    return page.read_text(encoding="utf-8").partition("\n")[0].removeprefix("# ")


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Puts pages into the navigation where it has a pattern."""
    for entry in config.nav or []:
        for name, path in entry.items():
            if isinstance(path, str) and "*" in path:
                pages = sorted(ROOT.glob(path), key=title)
                entry[name] = [page.relative_to(ROOT).as_posix() for page in pages]
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """The files of the theme, and ours below the top of the repository instead of `docs_dir`."""
    theme = [file for file in files if file.src_dir != config.docs_dir]
    linked = [path for pattern in OUTSIDE for path in ROOT.glob(pattern)]
    pages = [path for path in (ROOT / "docs").rglob("*") if path.suffix in KINDS]
    ours = sorted(path.relative_to(ROOT).as_posix() for path in {*linked, *pages})
    places = (str(ROOT), config.site_dir, config.use_directory_urls)
    return Files([*theme, *(File(path, *places) for path in ours)])


def on_page_content(html: str, **_: object) -> str:
    """The page; a stroke in a table that Markdown escapes inside code is a stroke again."""
    return html.replace(r"\|", "|")
