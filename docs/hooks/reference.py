"""Pages of the documentation that are made: the configuration from the comments of m3/conf, links to other files.

A key's comment in a YAML file is its documentation: the same text that `--help` prints.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import yaml

ROOT = Path(__file__).resolve().parents[2]
CONF = ROOT / "m3" / "conf"
COMMANDS = ("preprocess", "train", "generate")
_LINK = re.compile(r"(!?)\[((?:[^\]\[]|\[[^\]]*\])*)\]\(([^)\s]+)\)")
_FENCE = re.compile(r"(^```.*?^```$)", re.MULTILINE | re.DOTALL)
_INCLUDED = {"benchmarks.md": "bench/RESULTS.md", "changes.md": "CHANGELOG.md"}
"""Pages that are another file of the project, whose links start there."""


class Key(NamedTuple):
    """One key of a file. name: dotted. default: its value as text. comment: joined to one text."""

    name: str
    default: str
    comment: str


# --- hooks of MkDocs


def on_files(files: Any, config: Any) -> Any:
    """Adds a page for each command and one for all groups."""
    from mkdocs.structure.files import File

    for name, text in pages().items():
        files.append(File.generated(config, f"configuration/{name}.md", content=text))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Any) -> str:
    """Links to files that are not pages become their names; a file that is not there is an error."""
    source = page.file.src_uri
    if source in _INCLUDED:
        markdown = (ROOT / _INCLUDED[source]).read_text(encoding="utf-8")
    start = posixpath.dirname(_INCLUDED.get(source, f"docs/{source}"))
    parts = _FENCE.split(markdown)
    parts[::2] = [_LINK.sub(lambda found: _relinked(found, start, source), part) for part in parts[::2]]
    return "".join(parts)


def _relinked(found: re.Match[str], start: str, source: str) -> str:
    bang, words, target = found.groups()
    if "://" in target or target.startswith(("#", "mailto:")):
        return found[0]
    path, _, anchor = target.partition("#")
    place = posixpath.normpath(posixpath.join(start, path))
    here = posixpath.dirname(f"docs/{source}")
    page = next((f"docs/{name}" for name, file in _INCLUDED.items() if file == place), place)
    is_made = page.startswith("docs/configuration/")
    if not is_made and (place.startswith("..") or not (ROOT / place).exists()):
        raise FileNotFoundError(f"{source}: [{words}]({target}): there is no {place}")
    if page.startswith("docs/"):
        return f"{bang}[{words}]({posixpath.relpath(page, here)}{'#' + anchor if anchor else ''})"
    return words if words.startswith("`") else f"{words} (`{place}`)"


# --- the configuration


def pages() -> dict[str, str]:
    """Name → Markdown of each page."""
    made = {command: _command_page(command) for command in COMMANDS}
    groups = sorted(path for path in CONF.iterdir() if path.is_dir() and path.name not in (*COMMANDS, "hydra"))
    groups = [path for path in groups if any(path.glob("*.yaml"))]
    parts = ["# Groups", "`GROUP=OPTION` on the command line takes all keys of the option; `GROUP.KEY=VALUE` sets one."]
    for group in groups:
        parts.append(f"## {group.name}")
        parts += [_file_section(path, f"{group.name}={path.stem}", 3) for path in sorted(group.glob("*.yaml"))]
    made["groups"] = "\n\n".join(parts) + "\n"
    return made


def _command_page(command: str) -> str:
    path = CONF / f"{command}.yaml"
    parts = [f"# {command}.py", _head(path), "## Groups", _groups_table(path), "## Keys", _keys_table(path)]
    experiments = sorted((CONF / command / "experiment").glob("*.yaml"))
    if experiments:
        parts.append("## Experiments")
        parts += [_file_section(each, f"experiment={each.stem}", 3) for each in experiments]
    return "\n\n".join(part for part in parts if part) + "\n"


def _file_section(path: Path, title: str, level: int) -> str:
    parts = [f"{'#' * level} {title}", _head(path), _groups_table(path), _keys_table(path)]
    return "\n\n".join(part for part in parts if part)


def _head(path: Path) -> str:
    """The comment at the top; its first line is often the command."""
    lines = []
    for line in path.read_text(encoding="utf-8").splitlines():
        if not line.startswith("#"):
            break
        lines.append(line.removeprefix("#").strip())
    commands = [line for line in lines if line.startswith(("python ", "M3_", "torchrun"))]
    words = " ".join(line for line in lines if line not in commands)
    shown = "```bash\n" + "\n".join(commands) + "\n```" if commands else ""
    return "\n\n".join(part for part in (shown, _escaped(words)) if part)


def _groups_table(path: Path) -> str:
    """The `defaults` of a file: group, option, comment."""
    rows = []
    for line in path.read_text(encoding="utf-8").splitlines():
        if found := re.match(r" +- (?:override )?/?([\w@./]+): *([^#]*?) *(?:#(.*))?$", line):
            rows.append(f"| `{found[1]}` | `{found[2]}` | {_cell((found[3] or '').strip())} |")
    return "\n".join(["| group | option | |", "|---|---|---|", *rows]) if rows else ""


def _keys_table(path: Path) -> str:
    shown = [key for key in keys(path) if key.default or key.comment]
    rows = [f"| `{key.name}` | {_code(key.default)} | {_cell(key.comment)} |" for key in shown]
    return "\n".join(["| key | default | |", "|---|---|---|", *rows]) if rows else ""


def keys(path: Path) -> list[Key]:
    """All keys of a file in its order, without `defaults`, `hydra` and `_target_`."""
    text = path.read_text(encoding="utf-8")
    root = yaml.compose(text, Loader=yaml.SafeLoader)
    if not isinstance(root, yaml.MappingNode):
        return []
    nodes = list(_nodes(root, "", {}))
    starts = [key.start_mark.line for _, key, _, _ in nodes] + [len(text.splitlines())]
    lines = text.splitlines()
    return [
        Key(name, default, _comment(lines, key, node, min(line for line in starts if line > key.start_mark.line)))
        for name, key, node, default in nodes
        if name.split(".")[0] not in ("defaults", "hydra") and not name.endswith(("_target_", "<<"))
    ]


def _nodes(
    mapping: yaml.MappingNode, prefix: str, named: dict[int, str]
) -> Iterator[tuple[str, yaml.Node, yaml.Node, str]]:
    """Dotted name, node of the key and of the value, and the value as text; of mappings in block style also what is
    inside. named: node → the key that has it: an alias is said to be as that key."""
    for key, value in mapping.value:
        name = f"{prefix}{key.value}"
        is_block = isinstance(value, yaml.MappingNode) and not value.flow_style
        if id(value) in named and not isinstance(value, yaml.ScalarNode):
            yield name, key, value, f"as {named[id(value)]}"
            continue
        named[id(value)] = name
        merged = [named[id(each)] for inner, each in value.value if inner.value == "<<"] if is_block else []
        yield name, key, value, f"as {merged[0]}, but" if merged else _value(value)
        if is_block:
            yield from _nodes(value, f"{name}.", named)


def _value(node: yaml.Node) -> str:
    """As it is written; of a list in block style its items. Empty for a section."""
    if isinstance(node, yaml.ScalarNode):
        return f'"{node.value}"' if node.style == '"' else node.value
    if isinstance(node, yaml.SequenceNode):
        return f"[{', '.join(_value(item) for item in node.value)}]"
    if isinstance(node, yaml.MappingNode) and node.flow_style:
        return f"{{{', '.join(f'{key.value}: {_value(value)}' for key, value in node.value)}}}"
    return ""


def _comment(lines: list[str], key: yaml.Node, value: yaml.Node, next_line: int) -> str:
    """The comment behind a key, and the lines of comment alone that go on with it, farther right than the keys."""
    first = key.start_mark.line
    is_on_line = not isinstance(value, yaml.CollectionNode) or value.flow_style
    begin = value.end_mark.column if is_on_line and value.end_mark.line == first else key.end_mark.column + 1
    parts = []
    for number in range(first, max(next_line, first + 1)):
        line = lines[number][begin if number == first else 0 :]
        found = re.search(r"(?:^|\s)#\s?(.*)$", line)
        is_alone = lines[number].lstrip().startswith("#")
        if found is None or (is_alone and lines[number].index("#") <= key.start_mark.column):
            continue
        parts.append(found[1].strip())
    return " ".join(parts)


def _code(text: str) -> str:
    return f"`{text.replace('|', chr(92) + '|')}`" if text else ""


def _cell(text: str) -> str:
    return _escaped(text).replace("|", "\\|").replace("\n", " ")


def _escaped(text: str) -> str:
    """Without markup by accident: stars, underscores, angle brackets."""
    return re.sub(r"([*_<>\[\]`~{}])", r"\\\1", text)
