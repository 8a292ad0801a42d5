"""The words of documents, messages, comments and names: phrases that WORKSPACE.md, section Style, replaces."""

import re

import pytest

from tests.conftest import ROOT

PHRASES = {
    r"\b(goes|go|going|gone|went) on (from|with|where|at)\b|\bto go on\b": "resume, continue",
    r"\banew\b": "again",
    r"\bfor ever\b": "permanently, indefinitely",
    r"\bat hand\b": "available",
    r"\bwhoever\b": "anyone who",
    r"\bin the midst\b": "within",
    r"\breckon": "estimate",
    r"\bmend(s|ed|ing)?\b": "fix",
    r"\bwhose word\b|\bthe word of\b": "name the network or the score",
    r"\bheld against\b": "compared with",
    r"\bbelongs? into\b": "belongs in",
    r"\bslip of the pen\b": "typo",
    r"\bnobody's business\b": "private",
    r"\bknocks? at\b": "connect to",
    r"\bcomes? round\b": "reaches",
    r"\bof one's own\b": "custom",
    r"\bfrom nothing\b": "untrained",
    r"\b(frames|clips|steps|videos|bytes|updates|samples|requests) an? "
    r"(second|minute|hour|clip|step|shard|video|frame|class|level|row|worker)\b": "per",
    r"\bone an? (level|class|frame|clip|video|shard|step|worker|replica)\b": "one per",
    r"\bis no (number|whole|valid|file|folder|video|run)\b": "is not a",
    r"\bhas behind it\b": "number of steps",
    r"\btaken up again\b": "resumed",
}
FOLDERS = ("tganv2_tf", "data_prep", "benchmarks", "flags", "docs", "examples", "tests")
SUFFIXES = {".py", ".md", ".flags", ".ipynb", ".sh", ".yaml"}


@pytest.mark.parametrize("folder", [*FOLDERS, "."])
def test_no_replaced_phrase_is_used(folder: str) -> None:
    top = ROOT / folder
    paths = top.glob("*") if folder == "." else top.rglob("*")
    found = []
    for path in sorted(path for path in paths if path.suffix in SUFFIXES and path.name != "test_words.py"):
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
            if path.name == "WORKSPACE.md" and line.startswith("| ") and line.count("|") == 3:
                continue  # the table of these phrases
            for phrase, better in PHRASES.items():
                match = re.search(phrase, line, re.IGNORECASE)
                if match:
                    found.append(f"{path.relative_to(ROOT)}:{number}: {match[0]!r}; write: {better}")
    assert not found, "\n".join(found)
