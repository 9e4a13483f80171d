"""The documented contract (api/openapi.yaml), and what the running server does differently.

Every answer that any test gets is compared with what is documented for its route and status; test_openapi.py shows the
differences at the end.
"""

import functools
import json
import os
import re
from pathlib import Path
from urllib.parse import urlsplit

import jsonschema
import yaml

FILE = Path(__file__).resolve().parents[3] / "api" / "openapi.yaml"

# Where runs at the same time put what they saw, one object a line.
SHARED = os.environ.get("AKIRA_TEST_ANSWERS")

differences = {}  # text -> an example
seen = set()  # (method, path of the document, status)


class Operation:
    def __init__(self, method, path, spec, shared):
        self.method, self.path, self.spec = method, path, spec
        self.parameters = [resolve(parameter) for parameter in shared + spec.get("parameters", [])]
        self.pattern = re.compile("^" + re.sub(r"\\{\w+\\}", "[^/]+", re.escape(path)) + "$")

    @property
    def name(self):
        return f"{self.method} {self.path}"

    def fill(self, identifier):
        return re.sub(r"\{\w+\}", identifier, self.path)

    @property
    def has_id(self):
        return "{" in self.path

    @property
    def body(self):
        """The schema of the JSON body, or None."""
        content = resolve(self.spec.get("requestBody", {})).get("content", {})
        return content.get("application/json", {}).get("schema")

    @property
    def open(self):
        """True if it asks for no key."""
        return self.spec.get("security") == []

    def answer(self, status):
        responses = self.spec.get("responses", {})
        found = responses.get(str(status)) or responses.get(status) or responses.get(f"{status // 100}XX")
        return resolve(found or responses.get("default") or {}) or None

    def documented(self, status):
        return self.answer(status) is not None

    def __repr__(self):
        return self.name


@functools.lru_cache(maxsize=None)
def document():
    return yaml.safe_load(FILE.read_text(encoding="utf-8")) or {}


def resolve(node):
    while isinstance(node, dict) and "$ref" in node:
        target = document()
        for part in node["$ref"].removeprefix("#/").split("/"):
            target = target[part.replace("~1", "/").replace("~0", "~")]
        node = target
    return node


@functools.lru_cache(maxsize=None)
def operations():
    found = []
    for path, item in document().get("paths", {}).items():
        for method, spec in item.items():
            if method in ("get", "post", "put", "patch", "delete"):
                found.append(Operation(method.upper(), path, spec, item.get("parameters", [])))
    return found


def operation(method, target):
    path = urlsplit(target).path
    literal = [op for op in operations() if op.method == method and op.path == path]
    matching = literal or [op for op in operations() if op.method == method and op.pattern.match(path)]
    return matching[0] if matching else None


def modern(schema):
    """OpenAPI 3.0's nullable in JSON Schema's words."""
    if isinstance(schema, list):
        return [modern(entry) for entry in schema]
    if not isinstance(schema, dict):
        return schema
    changed = {key: modern(value) for key, value in schema.items()}
    if changed.pop("nullable", False) and isinstance(changed.get("type"), str):
        changed["type"] = [changed["type"], "null"]
        if "enum" in changed:
            changed["enum"] = [*changed["enum"], None]
    return changed


@functools.lru_cache(maxsize=None)
def resolver():
    return jsonschema.RefResolver("", modern(document()))


def validate(schema, value):
    """What is wrong with a value, as texts."""
    validator = jsonschema.Draft202012Validator(modern(schema), resolver=resolver())
    return [
        f"{'.'.join(map(str, error.absolute_path)) or '(all)'}: {error.message[:200]}" for error in validator.iter_errors(value)
    ]


def undocumented_fields(schema, value, at=""):
    """Fields that the answer has and the document does not know, as texts."""
    schema = resolve(schema)
    if not isinstance(schema, dict):
        return []
    if isinstance(value, list) and "items" in schema:
        return sorted({text for entry in value for text in undocumented_fields(schema["items"], entry, at + "[]")})
    if not isinstance(value, dict):
        return []
    known, open_ended = {}, schema.get("additionalProperties") not in (None, False)
    for part in [schema, *map(resolve, schema.get("allOf", [])), *map(resolve, schema.get("oneOf", [])), *map(resolve, schema.get("anyOf", []))]:
        for inner in [part, *map(resolve, part.get("allOf", []))]:
            known.update(inner.get("properties", {}))
            open_ended = open_ended or inner.get("additionalProperties") not in (None, False)
    if not known:
        return []
    found = [] if open_ended else [f"{at}.{name}: not documented" for name in value if name not in known]
    for name, inner in known.items():
        if name in value:
            found += undocumented_fields(inner, value[name], f"{at}.{name}")
    return found


def problems_of(op, answer):
    described = op.answer(answer.status)
    if described is None:
        return [f"status {answer.status} is not documented"]
    kind = answer.headers.get("content-type", "").split(";")[0]
    content = described.get("content", {})
    if not content:
        return [f"status {answer.status}: a body is not documented"] if answer.body else []
    if kind not in content:
        return [f"status {answer.status}: content type {kind!r} is not documented"]
    schema = content[kind].get("schema")
    if kind != "application/json" or schema is None:
        return []
    try:
        value = json.loads(answer.body)
    except ValueError:
        return [f"status {answer.status}: not JSON"]
    return [f"status {answer.status}: {text}" for text in validate(schema, value) + undocumented_fields(schema, value)]


def compare(method, target, answer):
    """Notes what differs. Never fails: the test that runs is about something else."""
    if not FILE.exists() or not operations():
        return
    op = operation(method, target)
    if op is None:
        if answer.status not in (400, 404, 405, 414, 431):
            differences.setdefault(f"{method} {urlsplit(target).path}: answered {answer.status}, not documented", repr(answer))
        return
    seen.add((op.method, op.path, answer.status))
    for text in problems_of(op, answer):
        differences.setdefault(f"{op.name}: {text}", repr(answer))


def share():
    """For the run that looks at all of them."""
    if SHARED:
        with open(SHARED, "a", encoding="utf-8") as file:
            file.write(json.dumps({"differences": differences}) + "\n")


def collect():
    """All differences: of this run and of those that shared theirs."""
    found = dict(differences)
    if SHARED and Path(SHARED).exists():
        for line in Path(SHARED).read_text(encoding="utf-8").splitlines():
            found.update(json.loads(line)["differences"])
    return found
