"""Requests made from the document: valid and invalid ones to every route. No 500, every status documented, every answer
as its schema says. The seed is printed; AKIRA_TEST_SEED repeats a run."""

import os
import random

import pytest

from conftest import LONG
from harness import contract
from harness.daemon import Daemon

SEED = int(os.environ.get("AKIRA_TEST_SEED") or random.randrange(1 << 30))
ROUNDS = 200 if LONG else 14

ODD = [None, True, False, 0, -1, 1, 2**31, 2**53, -(2**63), 1.5, 1e308, "", "x", "x" * 300, "../../etc/passwd", "\u202e", "a\nb", "%s%n", "💥",
       [], {}, [[]], {"a": {"b": {"c": []}}}, ["x"] * 100, {f"k{number}": number for number in range(50)}]


def routes():
    return contract.operations() if contract.FILE.exists() else []


@pytest.fixture(scope="module")
def alone():
    """A daemon of its own: delete-all and changes of organisations and keys may come out of the dice."""
    daemon = Daemon({"limits": {"memory_reserve_mib": 4096}}).start()
    yield daemon
    daemon.close()


def sample(schema, dice, depth=0):
    """A value that the schema allows."""
    schema = contract.resolve(schema)
    for choice in ("oneOf", "anyOf"):
        if choice in schema:
            return sample(dice.choice(schema[choice]), dice, depth)
    if "allOf" in schema:
        merged = {}
        for part in schema["allOf"]:
            value = sample(part, dice, depth)
            merged.update(value if isinstance(value, dict) else {})
        return merged
    if "example" in schema:
        return schema["example"]
    if "enum" in schema:
        return dice.choice(schema["enum"])
    kind = schema.get("type", "object")
    if kind == "object":
        required = set(schema.get("required", []))
        return {
            name: sample(inner, dice, depth + 1)
            for name, inner in schema.get("properties", {}).items()
            if name in required or (depth < 3 and dice.random() < 0.5)
        }
    if kind == "array":
        return [sample(schema.get("items", {}), dice, depth + 1) for _ in range(dice.randint(schema.get("minItems", 0), min(schema.get("maxItems", 2), 2)))]
    if kind == "integer":
        low = schema.get("minimum", 0)
        return dice.randint(low, min(schema.get("maximum", low + 100), low + 100))
    if kind == "number":
        return float(schema.get("minimum", 0))
    if kind == "boolean":
        return dice.random() < 0.5
    text = "x" * max(schema.get("minLength", 1), 1)
    return "2030-01-01T00:00:00Z" if schema.get("format") == "date-time" else text


def spoil(value, dice):
    """The same with one thing wrong, or something odd altogether."""
    if not isinstance(value, dict) or dice.random() < 0.1:
        return dice.choice(ODD)
    spoilt = dict(value)
    if spoilt and dice.random() < 0.7:
        name = dice.choice(sorted(spoilt))
        spoilt[name] = spoil(spoilt[name], dice) if isinstance(spoilt[name], dict) and dice.random() < 0.7 else dice.choice(ODD)
    else:
        spoilt[dice.choice(["no_such", "", "__proto__", "id", "org_id", "x" * 200])] = dice.choice(ODD)
    return spoilt


def query_of(op, dice, wrong):
    query = {}
    for parameter in op.parameters:
        if parameter["in"] == "query" and (parameter.get("required") or dice.random() < 0.4):
            value = dice.choice(ODD) if wrong and dice.random() < 0.6 else sample(parameter.get("schema", {}), dice)
            query[parameter["name"]] = value if isinstance(value, (str, int, float)) else str(value)
    if wrong and dice.random() < 0.2:
        query["no_such"] = "1"
    return query


@pytest.mark.limit(180)
@pytest.mark.parametrize("op", routes(), ids=repr)
def test_generated(alone, op):
    dice = random.Random(f"{SEED} {op.name}")
    print(f"AKIRA_TEST_SEED={SEED}")
    api = alone.api()
    for number in range(ROUNDS):
        wrong = number % 3 != 0
        options = {"query": query_of(op, dice, wrong)}
        if op.body is not None:
            body = sample(op.body, dice)
            options["json"] = spoil(body, dice) if wrong else body
        elif op.method in ("POST", "PUT", "PATCH") and wrong:
            options["json"] = dice.choice(ODD)
        identifier = dice.choice(["sbx_" + "0" * 22, "snap_" + "0" * 22, "key_" + "0" * 22, "org_" + "0" * 22, "x", "-", "sbx_%00", "A" * 300])
        answer = api.request(op.method, op.fill(identifier), **options)
        assert answer.status != 500, (number, options, answer)
        assert op.documented(answer.status), (number, options, answer)
        assert not contract.problems_of(op, answer), (number, options, contract.problems_of(op, answer), answer)
        if answer.status == 201 and op.path.endswith("/create"):
            api.delete(f"/v1/sandboxes/{answer.json['id']}/delete")
