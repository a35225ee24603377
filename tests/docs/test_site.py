"""The documentation: the configuration reference says what the YAML files say, and the site builds, links and all."""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace
from urllib.parse import unquote, urlsplit

import pytest
from omegaconf import OmegaConf

ROOT = Path(__file__).parents[2]
FILES = sorted((ROOT / "m3/conf").rglob("*.yaml"))


def hook():
    spec = importlib.util.spec_from_file_location("reference", ROOT / "docs/hooks/reference.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["reference"] = module
    spec.loader.exec_module(module)
    return module


REFERENCE = hook()


def flat(section: Mapping, prefix: str = "") -> Iterator[str]:
    for key, value in section.items():
        yield f"{prefix}{key}"
        if isinstance(value, Mapping):
            yield from flat(value, f"{prefix}{key}.")


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT / "m3/conf")))
def test_every_key_and_every_comment_is_in_the_reference(path: Path) -> None:
    keys = REFERENCE.keys(path)
    content = OmegaConf.to_container(OmegaConf.load(path))
    wanted = [name for name in flat(content or {}) if name.split(".")[0] not in ("defaults", "hydra")]
    names = {key.name for key in keys}
    for name in wanted:
        if name.endswith("_target_"):
            continue
        parent = name
        while parent not in names and "." in parent:  # what is inside {…} is part of its key's value
            parent = parent.rsplit(".", 1)[0]
        assert parent in names, name
        default = next(key.default for key in keys if key.name == parent)
        assert parent == name or name.rsplit(".", 1)[1] in default or default.startswith("as ")
    assert names <= set(wanted)
    # Of each comment beside a key the words are there: found line by line, as no YAML parser does.
    body = re.split(r"^hydra:\n", path.read_text(encoding="utf-8"), flags=re.MULTILINE)[0]
    said = " ".join(key.comment for key in keys) + " " + REFERENCE._head(path) + REFERENCE._groups_table(path)
    said = said.replace("\\", "")
    for line in body.splitlines():
        if found := re.match(r"[ ]*[\w.]+: +[^#'\"{\[]*[^#'\"{\[\s] +# (.*)$", line):
            assert found[1].strip() in said, line


def test_a_comment_goes_on_in_the_lines_below(tmp_path: Path) -> None:
    (tmp_path / "some.yaml").write_text(
        "# python train.py some=1\n# Words about it.\n_target_: m3.Some\n"
        "one: 'a # b'   # first\n               # and second\n"
        "part:          # of it\n  inner: [1, 2]   # a list\n"
        "  # before the next\n  other: {x: 1}  # flow\n  many:   # block\n    - a\n    - b\n"
        "base: &base   # shared\n  c: 3   # three\ncopy: *base   # again\nchanged:\n  <<: *base\n  d: 4\n"
    )
    keys = [tuple(key) for key in REFERENCE.keys(tmp_path / "some.yaml")]
    assert keys == [
        ("one", "a # b", "first and second"), ("part", "", "of it"), ("part.inner", "[1, 2]", "a list"),
        ("part.other", "{x: 1}", "flow"), ("part.many", "[a, b]", "block"),
        ("base", "", "shared"), ("base.c", "3", "three"), ("copy", "as base", "again"),
        ("changed", "as base, but", ""), ("changed.d", "4", ""),
    ]  # fmt: skip
    assert REFERENCE._head(tmp_path / "some.yaml") == "```bash\npython train.py some=1\n```\n\nWords about it."


def test_a_link_to_a_file_that_is_not_there_is_an_error() -> None:
    page = SimpleNamespace(file=SimpleNamespace(src_uri="data.md"))

    def shown(markdown: str) -> str:
        return REFERENCE.on_page_markdown(markdown, page, None, None)

    assert shown("[`m3/loss.py`](../m3/loss.py), [it](../LICENSE)") == "`m3/loss.py`, it (`LICENSE`)"
    assert shown("[a](training.md#features) [b](../bench/RESULTS.md#sweeps) [c](https://example.com)") == (
        "[a](training.md#features) [b](benchmarks.md#sweeps) [c](https://example.com)"
    )
    assert shown("```\n[x](nothing.md)\n```") == "```\n[x](nothing.md)\n```"
    for link in ("nothing.md", "../m3/nothing.py", "../../outside.md"):
        with pytest.raises(FileNotFoundError, match="data.md: .*there is no"):
            shown(f"[x]({link})")


class Page(HTMLParser):
    """The addresses that a page loads, those that it links to, and its anchors."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.loaded: list[str] = []
        self.linked: list[str] = []
        self.anchors: set[str] = set()
        self.feed(text)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        found = {name: value for name, value in attributes if value is not None}
        if "id" in found:
            self.anchors.add(found["id"])
        if tag == "a" and "href" in found:
            self.linked.append(found["href"])
        elif tag == "link" and found.get("rel") not in ("canonical", "next", "prev") and "href" in found:
            self.loaded.append(found["href"])
        elif "src" in found:
            self.loaded.append(found["src"])


def test_the_site_builds_links_and_loads_nothing_from_elsewhere(tmp_path: Path) -> None:
    pytest.importorskip("mkdocs", reason="the packages of the documentation need Python 3.11: extra docs")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "-q", "-d", str(tmp_path / "site")]
    environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    site = tmp_path / "site"
    pages = {path: Page(path.read_text(encoding="utf-8")) for path in site.rglob("*.html") if path.name != "404.html"}
    assert len(pages) > 20 and site / "configuration/train.html" in pages
    for path, page in pages.items():
        assert [each for each in page.loaded if "//" in each] == [], path
        for link in page.linked:
            parts = urlsplit(link)
            if parts.scheme or parts.netloc:
                assert parts.scheme in ("https", "mailto"), link
                continue
            target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            assert target.exists(), f"{path.name}: {link}"
            if parts.fragment and target in pages:
                assert unquote(parts.fragment) in pages[target].anchors, f"{path.name}: {link}"
    reference = (site / "api.html").read_text(encoding="utf-8")
    assert "continue_video" in reference and "compare_runs" in reference and "uint8" in reference
    sheet = "".join(path.read_text(encoding="utf-8") for path in site.rglob("*.css"))
    assert re.findall(r"url\([\"']?https?:[^)]*\)|@import[^;]*http[^;]*", sheet) == []
