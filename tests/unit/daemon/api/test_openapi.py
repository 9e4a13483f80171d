"""api/openapi.yaml: well-formed, whole, and the same routes as the code's table."""

import re
from pathlib import Path

import jsonschema
import yaml

ROOT = Path(__file__).resolve().parents[4]
TEXT = (ROOT / "api" / "openapi.yaml").read_text(encoding="ascii")
DOCUMENT = yaml.safe_load(TEXT)
METHODS = ("get", "post", "put", "patch", "delete")
SCOPES = {
    "READ": "sandboxes:read",
    "WRITE": "sandboxes:write",
    "SCOPE_KEYS_MANAGE": "keys:manage",
    "SCOPE_AUDIT_READ": "audit:read",
    "SCOPE_ADMIN": "admin",
}


def operations():
    for path, item in DOCUMENT["paths"].items():
        for method in METHODS:
            if method in item:
                yield method.upper(), path, item[method], item.get("parameters", [])


def code_routes():
    """method, pattern, scope, flags, early status: the table of routes.c."""
    text = (ROOT / "src" / "daemon" / "api" / "routes.c").read_text(encoding="utf-8")
    row = re.compile(r'\{\s*"([A-Z]+)",\s*"([^"]+)",\s*\w+,\s*(\w+),\s*([\w |]+?),\s*(\d+),\s*"([\w.]+)",\s*[&\w]+\s*\}')
    rows = row.findall(text)
    assert len(rows) == text.count('{ "'), "a row of routes.c was not understood"
    return rows


def resolve(node):
    while isinstance(node, dict) and "$ref" in node:
        target = DOCUMENT
        for part in node["$ref"].removeprefix("#/").split("/"):
            target = target[part]
        node = target
    return node


def test_references():
    references = set(re.findall(r"\$ref: '(#/[^']+)'", TEXT))
    names = {f"#/components/{kind}/{name}" for kind, items in DOCUMENT["components"].items() for name in items}
    assert references <= names
    assert {name for name in names if "securitySchemes" not in name} <= references


def test_same_routes_as_the_code():
    assert {(row[0], row[1]) for row in code_routes()} == {(method, path) for method, path, _, _ in operations()}


def test_same_scopes_as_the_code():
    described = {(method, path): spec for method, path, spec, _ in operations()}
    for method, path, scope, flags, _, _ in code_routes():
        spec = described[method, path]
        if "HTTP_OPEN" in flags:
            assert spec.get("security") == [], path
        else:
            assert f"Scope `{SCOPES[scope]}`" in " ".join(spec["description"].split()), (method, path)


def test_early_statuses_are_the_documented_successes():
    described = {(method, path): spec for method, path, spec, _ in operations()}
    for method, path, _, flags, early, _ in code_routes():
        responses = described[method, path]["responses"]
        if "HTTP_LONG" in flags:
            assert early in responses, (method, path)
            schema = responses[early]["content"]["application/json"]["schema"]
            assert {"$ref": "#/components/schemas/LateFailure"} in schema["anyOf"], (method, path)


def test_each_operation_is_whole():
    identifiers = [spec["operationId"] for _, _, spec, _ in operations()]
    assert len(identifiers) == len(set(identifiers))
    for method, path, spec, shared in operations():
        assert spec["summary"]
        assert any(status.startswith("2") for status in spec["responses"])
        names = {resolve(parameter)["name"] for parameter in shared if resolve(parameter)["in"] == "path"}
        assert names == set(re.findall(r"\{(\w+)\}", path)), path
        if spec.get("security") != []:
            assert {"400", "401", "403", "429", "500", "503"} <= set(spec["responses"]), (method, path)
        for status, response in spec["responses"].items():
            response = resolve(response)
            assert response["description"] and response["content"], (method, path, status)
        if method == "POST" and "multipart/form-data" not in str(spec.get("requestBody")):
            assert {"$ref": "#/components/parameters/IdempotencyKey"} in spec["parameters"], path


def test_schemas_are_schemas():
    for name, schema in DOCUMENT["components"]["schemas"].items():
        jsonschema.Draft7Validator.check_schema(schema)
        for required in schema.get("required", []):
            assert required in schema["properties"], (name, required)


def test_bodies_refuse_unknown_fields():
    for method, path, spec, _ in operations():
        for content in spec.get("requestBody", {}).get("content", {}).values():
            assert resolve(content["schema"]).get("additionalProperties") is False, (method, path)


def test_error_codes_are_those_of_the_code():
    text = (ROOT / "src" / "daemon" / "http" / "response.c").read_text(encoding="utf-8")
    used = set(re.findall(r'\d{3}, "(\w+)"', text)) | {"internal", "quota_exceeded"}
    assert used == set(DOCUMENT["components"]["schemas"]["ErrorDetail"]["properties"]["code"]["enum"])
