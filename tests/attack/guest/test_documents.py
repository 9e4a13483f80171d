"""What the documents say of tests, files and settings is so: links lead somewhere, tests that are named exist."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
TESTS = ROOT / "tests"
DOCUMENTS = [ROOT / name for name in ("README.md", "CHARTER.md", "SECURITY.md", "SPECIFICATION.md")]
DOCUMENTS += sorted((ROOT / "docs").glob("*.md")) + sorted((ROOT / "api").glob("*.md"))


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_links_lead_somewhere(path):
    links = re.findall(r"\]\(([^)#\s]+)[^)]*\)", path.read_text(encoding="utf-8"))
    assert not [link for link in links if "://" not in link and not (path.parent / link).exists()]


def named_tests(path):
    """(file, beginning of a test's name or "") out of the last column of each table."""
    folder = ""
    for line in path.read_text(encoding="utf-8").splitlines():
        if line.startswith("## "):
            folder = ""
        elif match := re.match(r"All in `([\w/]+?)/?`", line):
            folder = match.group(1)
        elif line.startswith("| ") and "---" not in line:
            for part in line.rsplit("|", 2)[1].split(";"):
                match = re.fullmatch(r"\s*([\w/.]+\.(?:py|c))(?:: ([\w, ]+))?\s*", part)
                for name in (match.group(2) or "").split(",") if match else []:
                    yield folder, match.group(1), name.strip()


@pytest.mark.parametrize("document", ["docs/threat-model.md", "SPECIFICATION.md"])
def test_tests_that_are_named_exist(document):
    found = list(named_tests(ROOT / document))
    assert found
    for folder, file, name in found:
        path = next((p for p in (TESTS / folder / file, TESTS / file) if p.is_file()), None)
        assert path, f"{document}: there is no {file}"
        assert not name or f"def {name}" in path.read_text(encoding="utf-8"), f"{document}: {file} has no {name}"


def test_the_attack_list_is_whole():
    lines = re.findall(r"^([A-P]\d\d) \| [^|]+ \| [^|]*\| .+$", (TESTS / "attack/ids.txt").read_text(encoding="utf-8"), re.M)
    assert len(lines) == 230 and len(set(lines)) == 230 and lines == sorted(lines)


def test_every_setting_is_explained():
    source = (ROOT / "src/daemon/config.c").read_text(encoding="utf-8")
    settings = set(re.findall(r'^\t(?:TEXT|NUMBER|CHOICE)_AT\("(\w+)", "(\w+)"', source, re.M))
    text = (ROOT / "docs/operating.md").read_text(encoding="utf-8")
    explained = set(re.findall(r"^\| (\w+) \| `(\w+)` \|", text, re.M))
    assert settings and settings == explained
