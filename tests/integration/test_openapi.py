"""The document and the server say the same (no drift)."""

import re

import pytest

from harness import contract
from harness.client import multipart


def documented():
    return contract.operations() if contract.FILE.exists() else []


def test_the_document_is_there_and_served(api):
    answer = api.get("/openapi.yaml", key=None)
    assert answer.status == 200 and answer.body == contract.FILE.read_bytes()


def test_every_reference_leads_somewhere():
    text = contract.FILE.read_text(encoding="utf-8")
    references = set(re.findall(r"\$ref:\s*['\"]?(#/[^'\"\s}]+)", text))
    assert references
    for reference in references:
        assert contract.resolve({"$ref": reference}) is not None, reference
    names = {f"#/components/{kind}/{name}" for kind, items in contract.document()["components"].items() for name in items}
    unused = {name for name in names if name not in references and "securitySchemes" not in name}
    assert not unused, unused


def test_every_operation_is_described():
    identifiers = set()
    for op in documented():
        assert op.spec.get("operationId") and op.spec.get("summary"), op
        assert op.spec["operationId"] not in identifiers, op
        identifiers.add(op.spec["operationId"])
        assert any(str(status).startswith("2") for status in op.spec["responses"]), op
        if not op.open:
            for status in (401, 403, 429):
                assert op.documented(status), (op, status)
        if op.has_id:
            assert op.documented(404), op
            assert any(parameter["in"] == "path" for parameter in op.parameters), op
        if op.body or op.parameters:
            assert op.documented(400) or op.open, op


def test_the_routes_of_the_contract_are_documented():
    """The fixed part of the public contract; ours come on top."""
    names = {(op.method, re.sub(r"\{\w+\}", "{id}", op.path)) for op in documented()}
    for route in """POST /v1/sandboxes/create,GET /v1/sandboxes/list,GET /v1/sandboxes/{id},DELETE /v1/sandboxes/{id}/delete,
        DELETE /v1/sandboxes/delete-all,POST /v1/sandboxes/{id}/execute,POST /v1/sandboxes/{id}/execute_async,
        POST /v1/sandboxes/{id}/upload,GET /v1/sandboxes/{id}/download,GET /v1/sandboxes/{id}/status,GET /v1/sandboxes/logs,
        POST /v1/sandboxes/{id}/snapshot,POST /v1/sandboxes/{id}/clone,POST /v1/sandboxes/{id}/pause,
        POST /v1/sandboxes/{id}/resume,GET /v1/snapshots/list,DELETE /v1/snapshots/{id},DELETE /v1/snapshots/delete-all,
        POST /v1/snapshots/{id}/restore,GET /v1/audit,GET /v1/usage,GET /healthz,GET /openapi.yaml""".split(","):
        assert tuple(route.split()) in names, route


@pytest.mark.parametrize("op", documented(), ids=repr)
def test_every_documented_route_is_served(api, op):
    """Not 404 for the route itself, nor 405: an unknown id is answered with an error about that id."""
    unknown = "snap_0000000000000000000000" if "snapshots" in op.path else "sbx_0000000000000000000000"
    answer = api.request(op.method, op.fill(unknown), **({"json": {"no_such_field": 1}} if op.method in ("POST", "PUT", "PATCH") else {}))
    assert answer.status != 405, answer
    if answer.status == 404:
        assert op.has_id, answer
    assert op.documented(answer.status), answer


def test_routes_that_are_not_documented_are_not_served(api):
    for method, path in (("GET", "/"), ("GET", "/v1"), ("GET", "/v1/"), ("GET", "/v2/sandboxes/list"), ("GET", "/v1/sandboxes/list/"),
                         ("GET", "/v1//sandboxes/list"), ("GET", "/V1/sandboxes/list"), ("GET", "/debug"), ("GET", "/admin"),
                         ("PUT", "/v1/sandboxes/create"), ("PATCH", "/v1/sandboxes/list"), ("TRACE", "/healthz"),
                         ("GET", "/v1/sandboxes/create/x/y"), ("GET", "/../etc/passwd"), ("GET", "/%2e%2e/etc/passwd")):
        answer = api.request(method, path)
        assert answer.status in (400, 401, 404, 405), (method, path, answer)


def test_methods_that_a_route_has_not(api):
    for op in documented():
        others = {"GET", "POST", "PUT", "PATCH", "DELETE"} - {
            other.method for other in documented() if other.pattern.match(op.fill("x")) or other.path == op.path
        }
        for method in sorted(others)[:1]:
            assert api.request(method, op.fill("sbx_0000000000000000000000")).status in (404, 405), (method, op)


def test_a_tour_through_the_document(api, own):
    """One success of each kind of call, so that each answer has been compared with its schema."""
    box = own(name="tour", metadata={"a": "b"}, network={"outbound": "allow", "deny": ["1.2.3.4/32"], "bandwidth_mbps": 10})
    box.run("echo x")
    box.stream("echo x").collect()
    box.put("/workspace/x", b"x")
    box.fetch("/workspace/x")
    made = box.snapshot(name="tour")
    copy, between = box.clone()
    restored = api.restore(made["id"], name="tour2")
    box.pause()
    box.get()
    box.resume()
    for path in ("/v1/sandboxes/list", "/v1/sandboxes/logs", "/v1/snapshots/list", "/v1/audit", "/v1/usage", "/v1/keys", "/v1/organisations", box.path(),
                 box.path("status"), "/healthz"):
        assert api.get(path).status == 200, path
    for one in (copy, restored, box):
        one.remove()
    for identifier in (made["id"], between["id"]):
        api.forget_snapshot(identifier)
    kind, body = multipart([("path", b"/x")])
    assert api.post(box.path("upload"), body=body, headers={"content-type": kind}).status in (400, 404, 409)


def test_no_answer_of_any_test_differed():
    """Holds for all answers that this run has seen; this module comes late for that reason."""
    found = contract.collect()
    assert not found, "\n".join(f"{text}\n    {example}" for text, example in sorted(found.items()))
