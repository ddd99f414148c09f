"""Build the site of the documentation, build/site, which works offline and from a file: `make docs`.

The site has the Markdown files of the checkout under their own paths, so that a relative link leads to the same page on
a forge and in the site. Files that pages link to come along: pictures as they are, sources as pages that show them.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path

from training.data.fetch import FetchError, Npm

ROOT = Path(__file__).parents[1]
PAGES, SITE = ROOT / "build" / "pages", ROOT / "build" / "site"
# Scripts of pages, which the site brings along instead of loading them from elsewhere: name -> package and file in it.
SCRIPTS = {
    "mermaid.js": (  # draws the diagrams
        Npm("@mermaid-js/tiny", "11.17.2", "28302a2f6bd556bfd223acff76a1fd511bcc9e6f1cac1bad91b904469aeca102", "MIT"),
        "dist/mermaid.tiny.js",
    ),
    "iframe-worker.js": (  # lets the search run where the site is opened from a file
        Npm("iframe-worker", "1.0.4", "e8c5d12d87829c503afba01d67772ea9f4aba5b7ae57a0c98e1917711030efbb", "MIT"),
        "shim/index.js",
    ),
}
QUIET = os.environ | {"NO_MKDOCS_2_WARNING": "1"}  # of the theme, which advertises its successor
INSTALLED = "node_modules"
PICTURES = {".gif", ".jpg", ".png", ".svg", ".webp"}
LANGUAGES = {".py": "python", ".yaml": "yaml", ".yml": "yaml", ".js": "javascript", ".toml": "toml", ".proto": "proto"}
# Code, which is left alone, or a link to a file: mark of a picture, label, path, anchor.
CODE_OR_LINK = re.compile(
    r"```.*?```|`[^`\n]+`|(?P<picture>!?)\[(?P<label>(?:`[^`]*`|[^\]`])*)\]\((?![a-z]+:|#)(?P<path>[^)\s#]+)(?P<anchor>#[^)\s]*)?\)",
    re.DOTALL,
)
# The line with which a page leads to itself in the other language; the site has a menu for that.
OTHER_LANGUAGE = re.compile(r"^\[(?:English|繁體中文)\]\(\S+\)\n+", re.MULTILINE)
TRANSLATION = re.compile(r"\.zh-TW(?=\.md)")
# Attributes by which a page loads something.
LOADING = {"script": "src", "img": "src", "link": "href", "iframe": "src", "source": "src", "video": "src"}


def collect(root: Path, target: Path) -> None:
    """Put into `target` the Markdown of `root` and of its docs/, and what these link to, however far.

    Raises:
        FileNotFoundError: a link leads to no file.
    """
    waiting = [path for path in (*root.glob("*.md"), *(root / "docs").rglob("*.md")) if INSTALLED not in path.parts]
    done = set()
    while waiting:
        file = waiting.pop()
        relative = file.relative_to(root)
        if file in done:
            continue
        done.add(file)
        copy = target / relative
        copy.parent.mkdir(parents=True, exist_ok=True)
        if file.suffix == ".md":
            text = OTHER_LANGUAGE.sub("", file.read_text())
            waiting += linked_files(text, file)
            copy.write_text(site_text(text, file))
        elif file.suffix in PICTURES:
            shutil.copyfile(file, copy)
        else:
            Path(page_of(str(copy))).write_text(source_page(relative, file.read_text()))


def linked_files(text: str, page: Path) -> Iterator[Path]:
    """The files that a page links to; of a folder, its README.

    Raises:
        FileNotFoundError: there is no such file.
    """
    for path in filter(None, (match["path"] for match in CODE_OR_LINK.finditer(text))):
        target = resolved(page, path)
        if not target.exists():
            raise FileNotFoundError(f"{page}: {path} is no file")
        if target.is_dir():
            target /= "README.md"
        if target.is_file():
            yield target


def site_text(text: str, page: Path) -> str:
    """A page with its links as the site needs them: a source is a page there, a folder its README or no link."""

    def link(match: re.Match[str]) -> str:
        label, path, anchor = match["label"], match["path"], match["anchor"] or ""
        if not path or match["picture"]:
            return match[0]
        target = resolved(page, path)
        if target.is_dir():
            return f"[{label}]({path.rstrip('/')}/README.md)" if (target / "README.md").is_file() else label
        if target.suffix in PICTURES or target.suffix == ".md":
            return f"[{label}]({TRANSLATION.sub('', path)}{anchor})"
        return f"[{label}]({page_of(path)}{anchor})"

    return CODE_OR_LINK.sub(link, text)


def page_of(path: str) -> str:
    """The page that shows a source. A name has one dot: what stands before `.md` counts as its language."""
    folder, slash, name = path.rpartition("/")
    return f"{folder}{slash}{name.replace('.', '_')}.md"


def resolved(page: Path, path: str) -> Path:
    """The file that a link of a page names."""
    return Path(os.path.normpath(page.parent / path))


def source_page(relative: Path, text: str) -> str:
    """A page that shows a source file."""
    language = LANGUAGES.get(relative.suffix, "text")
    return f"# {relative.name}\n\n`{relative}`\n\n`````{language}\n{text}\n`````\n"


class Loads(HTMLParser):
    """Collects the addresses from which a page loads scripts, styles and pictures."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.addresses: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        if values.get("rel") not in ("canonical", "alternate", "prev", "next") and tag in LOADING:
            self.addresses.append(values.get(LOADING[tag]) or "")


def remote_loads(site: Path) -> list[str]:
    """Each page that loads something from elsewhere, with its address: such a page does not work offline."""
    return [
        f"{page.relative_to(site)}: {address}"
        for page in sorted(site.rglob("*.html"))
        for address in Loads(page.read_text()).addresses
        if re.match(r"(?:https?:)?//", address)
    ]


def gather() -> None:
    """Put everything that the site is made of into build/pages.

    Raises:
        FileNotFoundError: a link leads to no file.
        FetchError: a script that pages need cannot be had.
    """
    shutil.rmtree(PAGES, ignore_errors=True)
    collect(ROOT, PAGES)
    (PAGES / "assets").mkdir(exist_ok=True)
    shutil.copyfile(ROOT / "docs" / "site.css", PAGES / "assets" / "site.css")
    for name, (source, file) in SCRIPTS.items():
        shutil.copyfile(source.fetch() / "package" / file, PAGES / "assets" / name)


def build(folder: Path) -> bool:
    """Build the site of a folder's mkdocs.yml; false if MkDocs has a warning. (It counts none with `--quiet`.)"""
    return subprocess.run([sys.executable, "-m", "mkdocs", "build", "--strict"], cwd=folder, env=QUIET).returncode == 0


def main() -> int:
    """Build the site; any warning of MkDocs ends it, and so does a page that needs the network."""
    try:
        gather()
    except (FetchError, FileNotFoundError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    if not build(ROOT):
        return 1
    for load in (remote := remote_loads(SITE)):
        print(f"error: a page loads from elsewhere: {load}", file=sys.stderr)
    print(f"{SITE.relative_to(ROOT)}/index.html")
    return 1 if remote else 0


if __name__ == "__main__":
    sys.exit(main())
