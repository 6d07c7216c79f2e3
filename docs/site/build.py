"""The site of the documents and of the API reference, which needs no network to build or to read.

``make docs`` calls it. Pages are staged in ``build/docs/pages``: the documents, the reference, and
each file that a document links to. The documents stay readable where they lie, since links are
rewritten here: to a module's place in the reference, or to the page that shows a file. Then
zensical makes the site in ``build/docs/site``; a broken link or an unknown anchor ends it.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
HERE = Path(__file__).resolve().parent
BUILT = ROOT / "build/docs"
PAGES = {
    "README.md": "index.md",
    "CHANGELOG.md": "changes.md",
    "CONTRIBUTING.md": "contributing.md",
}
PAGES |= {
    file.relative_to(ROOT).as_posix(): file.relative_to(ROOT / "docs").as_posix()
    for folder in ("docs", "docs/results")
    for file in sorted((ROOT / folder).glob("*.md"))
}
PAGES |= {
    f"examples/{file.parent.name}/README.md": f"{file.parent.name}.md"
    for file in sorted((ROOT / "examples").glob("*/README.md"))
}
"""Documents by their path in the repository, with their names in the site."""

LANGUAGES = {".py": "python", ".yaml": "yaml", ".yml": "yaml", ".json": "json", ".cff": "yaml"}
FENCED = re.compile(r"(^```.*?^```$)", re.MULTILINE | re.DOTALL)
ELSEWHERE = re.compile(r'<(?:script|link|img)[^>]*?(?:src|href)="?(https?://[^">\s]+)')
SHIM = "https://unpkg.com/iframe-worker/shim"
LINK = re.compile(r"\]\(([^)#\s]+)(#[^)\s]*)?\)")


def build() -> None:
    """Stage, build, and make the site independent of other hosts."""
    stage(BUILT / "pages")
    listed = ", ".join(f'"reference/{room}.md"' for room in rooms())
    template = (HERE / "zensical.toml").read_text(encoding="utf-8")
    _write(BUILT / "zensical.toml", template.replace("REFERENCE", f"[{listed}]"))
    shutil.rmtree(BUILT / "site", ignore_errors=True)
    command = [sys.executable, "-m", "zensical", "build", "--clean", "--strict"]
    subprocess.run([*command, "--config-file", str(BUILT / "zensical.toml")], check=True)
    finish(BUILT / "site")


def finish(site: Path) -> None:
    """Bring along what the offline search loads from elsewhere; nothing else may.

    Raises:
        SystemExit: A page loads something from another host.
    """
    shutil.copy(HERE / "iframe-worker.js", site / "assets/javascripts/iframe-worker.js")
    for file in site.rglob("*.html"):
        shim = os.path.relpath(site / "assets/javascripts/iframe-worker.js", file.parent)
        text = file.read_text(encoding="utf-8").replace(SHIM, shim)
        if found := ELSEWHERE.search(text):
            sys.exit(f"{file}: must load nothing from elsewhere, got {found[1]}")
        file.write_text(text, encoding="utf-8")


def stage(target: Path) -> None:
    """Write the folder of pages anew."""
    shutil.rmtree(target, ignore_errors=True)
    shutil.copytree(ROOT / "docs/results", target / "results")
    shown: dict[str, str] = {}
    for source, page in PAGES.items():
        _write(target / page, rewritten((ROOT / source).read_text(), source, page, shown))
    while waiting := [path for path, page in shown.items() if not (target / page).exists()]:
        for path in waiting:
            _write(target / shown[path], _file_page(path, shown))
    for room, modules in rooms().items():
        _write(target / f"reference/{room}.md", _reference(room, modules))


def rewritten(text: str, source: str, page: str, shown: dict[str, str]) -> str:
    """A document for the site: links outside code lead to the site's pages.

    Args:
        text: The document.
        source: Its path in the repository.
        page: Its path in the site.
        shown: Path to page of the files to show; what is met is added.
    """

    def link(match: re.Match[str]) -> str:
        target, anchor = match[1], match[2] or ""
        if "://" in target or target.startswith("mailto:"):
            return match[0]
        path = os.path.normpath(Path(source).parent / target)
        place = _place(path, anchor, shown)
        return f"]({os.path.relpath(place.partition('#')[0], Path(page).parent)}{_anchor(place)})"

    parts = FENCED.split(text)
    return "".join(part if part.startswith("```") else LINK.sub(link, part) for part in parts)


def rooms() -> dict[str, list[str]]:
    """Packages of fusegpt with their modules; what lies in none is in the room ``fusegpt``."""
    found: dict[str, list[str]] = {"fusegpt": []}
    for file in sorted((ROOT / "fusegpt").rglob("*.py")):
        names = file.relative_to(ROOT).with_suffix("").parts
        room = names[1] if len(names) > 2 else "fusegpt"
        name = ".".join(names).removesuffix(".__init__")
        found.setdefault(room, []).append(name)
    return {room: sorted(modules) for room, modules in found.items()}


def _place(path: str, anchor: str, shown: dict[str, str]) -> str:
    """Where the site shows a path of the repository."""
    if path in PAGES:
        return PAGES[path] + anchor
    if path.startswith("docs/results/"):
        return path.removeprefix("docs/")
    names = Path(path).with_suffix("").parts
    if path.startswith("fusegpt/") and path.endswith(".py"):
        room = names[1] if len(names) > 2 else "fusegpt"
        return f"reference/{room}.md#{'.'.join(names).removesuffix('.__init__')}"
    if path.startswith("fusegpt/") and (ROOT / path / "__init__.py").exists():
        return f"reference/{names[1]}.md#{'.'.join(names)}"
    return shown.setdefault(path, f"files/{path}.md")


def _anchor(place: str) -> str:
    return "#" + place.partition("#")[2] if "#" in place else ""


def _file_page(path: str, shown: dict[str, str]) -> str:
    """A file as it is, or a folder's files as links."""
    here = ROOT / path
    if here.is_dir():
        files = sorted(file for file in here.rglob("*") if file.is_file() and file.suffix != ".pyc")
        lines = []
        for file in files:
            inner = file.relative_to(ROOT).as_posix()
            place = os.path.relpath(_place(inner, "", shown), f"files/{Path(path).parent}")
            lines.append(f"- [`{file.relative_to(here).as_posix()}`]({place})")
        return f"# `{path}/`\n\n" + "\n".join(lines) + "\n"
    language = LANGUAGES.get(here.suffix, "text")
    return f"# `{path}`\n\n````{language}\n{here.read_text().rstrip()}\n````\n"


def _reference(room: str, modules: list[str]) -> str:
    title = "fusegpt" if room == "fusegpt" else f"fusegpt.{room}"
    return f"# `{title}`\n\n" + "\n\n".join(f"::: {module}" for module in modules) + "\n"


def _write(file: Path, text: str) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    build()
