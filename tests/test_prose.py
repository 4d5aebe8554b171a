"""The prose of docstrings, comments and documents, held to limits per 10,000 words.

Semicolons and a few words show that a sentence was translated or holds too many ideas. Code does not count: in Python
only docstrings and comments are read, in YAML only comments, and in documents neither code blocks nor inline code.

``python tests/test_prose.py`` prints the table without pytest.
"""

from __future__ import annotations

import ast
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
CODE = ("components", "pipelines", "tests", "bench")
PER = 10_000
WORST = 6


@dataclass(frozen=True)
class Limit:
    """What is counted and how much of it is accepted.

    Args:
        name: The row's name in the table.
        pattern: One match counts as one.
        most: The highest accepted count per 10,000 words.
    """

    name: str
    pattern: re.Pattern[str]
    most: float


def word(name: str, pattern: str, most: float) -> Limit:
    return Limit(name, re.compile(rf"\b(?:{pattern})\b", re.IGNORECASE), most)


LIMITS = (
    Limit("semicolons", re.compile(";"), 40),
    word("own", "own", 8),
    word("behind", "behind", 2),
    word("beside", "beside", 2),
    # A name may stand for something.
    word("stand(s)", "stands?(?! for)", 1),
    word("lies", "lies", 1),
    word("figures", "figures", 2),
)

# A word has at least two letters, so that list markers and symbols of equations do not count.
WORD = re.compile(r"[^\W\d_][^\W\d_]+(?:['’-][^\W\d_]+)*")
# String literals come first: a # inside one starts no comment. Longest quotes first.
TOKEN = re.compile(
    r'"""(?:\\.|[^\\])*?"""|\'\'\'(?:\\.|[^\\])*?\'\'\'|"(?:\\.|[^"\\\n])*"|\'(?:\\.|[^\'\\\n])*\'|(?P<comment>#[^\n]*)',
    re.DOTALL,
)
DIRECTIVE = re.compile(r"#!|#\s*(?:fmt|type|noqa|ruff|mypy|pragma)\b:?")
YAML_COMMENT = re.compile(r"(?:^|\s)#(.*)$", re.MULTILINE)
FENCED = re.compile(r"^(```|~~~).*?^\1", re.MULTILINE | re.DOTALL)
INDENTED = re.compile(r"(?<=\n\n)(?:(?: {4}|\t).*\n+)+")
LITERAL_BLOCK = re.compile(r"::[ \t]*\n\s*\n(?P<indent>[ \t]+)\S.*(?:\n(?:(?P=indent).*|[ \t]*))*")
INLINE = re.compile(r"``.+?``|:\w+:`[^`]+`|`[^`\n]+`|\]\([^)]*\)|https?://\S+", re.DOTALL)


@dataclass
class Tally:
    """Counts of one file or of all.

    Args:
        words: The number of words.
        found: Matches by the limit's name.
    """

    words: int = 0
    found: Counter[str] = field(default_factory=Counter)

    def add(self, other: Tally) -> None:
        self.words += other.words
        self.found += other.found

    def rate(self, limit: Limit) -> float:
        """Matches per 10,000 words."""
        return self.found[limit.name] * PER / max(self.words, 1)


def python_prose(source: str) -> Iterator[str]:
    """Docstrings and comments of Python source."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            docstring = ast.get_docstring(node)
            if docstring:
                yield LITERAL_BLOCK.sub(" ", docstring)
    for match in TOKEN.finditer(source):
        comment = match["comment"]
        if comment is not None and not DIRECTIVE.match(comment):
            yield comment


def yaml_prose(source: str) -> Iterator[str]:
    """Comments of a YAML file."""
    yield from YAML_COMMENT.findall(source)


def document_prose(source: str) -> Iterator[str]:
    """A Markdown document without code blocks."""
    yield INDENTED.sub("\n", FENCED.sub("", source))


def tally(path: Path) -> Tally:
    """Counts of one file."""
    source = path.read_text(encoding="utf-8")
    prose = {".py": python_prose, ".yaml": yaml_prose, ".md": document_prose}[path.suffix]
    text = INLINE.sub(" ", "\n".join(prose(source)))
    found = Counter({limit.name: len(limit.pattern.findall(text)) for limit in LIMITS})
    return Tally(len(WORD.findall(text)), found)


def files() -> list[Path]:
    """All files of the project that hold prose."""
    code = [path for folder in CODE for path in (ROOT / folder).rglob("*.py")]
    documents = [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")]
    settings = [*ROOT.glob("*.yaml"), *(ROOT / "params").glob("*.yaml"), *(ROOT / "docs").rglob("*.yaml")]
    return sorted([*code, *documents, *settings])


def measure() -> tuple[Tally, dict[str, Tally]]:
    """Counts of the project and of each file, by its path from the root."""
    total, each = Tally(), {}
    for path in files():
        each[path.relative_to(ROOT).as_posix()] = counts = tally(path)
        total.add(counts)
    return total, each


def table(total: Tally, each: dict[str, Tally]) -> str:
    """The counts as text, with the files that have most of each."""
    lines = [f"{total.words:,} words in {len(each)} files; per {PER:,} words:"]
    for limit in LIMITS:
        rate = total.rate(limit)
        verdict = "ok" if rate <= limit.most else "too many"
        row = f"{limit.name:<11} {rate:6.1f}  limit {limit.most:<3g} {total.found[limit.name]:5} found  {verdict}"
        worst = sorted(each, key=lambda name: (-each[name].found[limit.name], name))[:WORST]
        names = [f"{name} ({each[name].found[limit.name]})" for name in worst if each[name].found[limit.name]]
        lines.append(row + (f": {', '.join(names)}" if names else ""))
    return "\n".join(lines)


def test_prose_keeps_to_the_limits() -> None:
    total, each = measure()
    text = table(total, each)
    print(text)
    over = [limit.name for limit in LIMITS if total.rate(limit) > limit.most]
    assert not over, f"{', '.join(over)}\n{text}"


@pytest.mark.parametrize(
    ("name", "source", "semicolons", "words"),
    [
        ("a.py", '"""One; two three."""\nx = "four; # five"  # six seven; eight\n', 2, 6),
        (
            "b.py",
            "def f() -> None:\n    'Alpha ``beta; gamma`` delta.'\n    a = '''#; epsilon'''; b = \"\\\"# zeta;\"\n",
            0,
            2,
        ),
        ("c.py", '#!/usr/bin/env python\nx = 1  # type: ignore[arg-type]\ny = f"{x};"  # noqa: E501\n', 0, 0),
        ("d.py", '"""See this::\n\n    a = b; c\n\nAnd then that.\n"""\n', 0, 5),
        ("e.yaml", "key: 'a; b'  # first; second\nurl: x#y; z\n# third word\n", 1, 4),
        ("f.md", "Some words; more.\n\n    code; block\n\n```\nmore; code\n```\n\nThe `inline; code` end.\n", 1, 5),
        ("g.md", "A link [named here](docs/a;b.md), and its end.\n", 0, 6),
    ],
)
def test_only_prose_is_counted(tmp_path: Path, name: str, source: str, semicolons: int, words: int) -> None:
    path = tmp_path / name
    path.write_text(source, encoding="utf-8")
    counts = tally(path)
    assert (counts.found["semicolons"], counts.words) == (semicolons, words)


def test_words_are_counted_whole() -> None:
    text = "Besides, it owns what it understands, and the underlying configures as before. Behind it stands its own."
    found = {limit.name: len(limit.pattern.findall(text)) for limit in LIMITS}
    assert found == {
        "semicolons": 0,
        "own": 1,
        "behind": 1,
        "beside": 0,
        "stand(s)": 1,
        "lies": 0,
        "figures": 0,
    }


if __name__ == "__main__":
    print(table(*measure()))
