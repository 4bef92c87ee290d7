"""Checks the JSON that the program prints: `check.py up FILE`, `check.py cheat FILE`, `check.py digests FILE FILE`."""

import json
import sys

UP = {
    "answer": str,
    "model": str,
    "usage": dict,
    "receipt_id": str,
    "receipt_verified": bool,
    "audits_done": int,
    "audits_passed": int,
    "epoch": int,
    "coordination_cpu_us_per_task": (int, float),
    "version": str,
}

CHEAT = {
    "verdict": str,
    "tokens_to_verdict": int,
    "audits_to_verdict": int,
    "withheld_micro_credits": int,
    "refunded_micro_credits": int,
    "honest_nodes_sanctioned": int,
}


def is_a(value, kind):
    """Whether a JSON value is of a kind; `true` is no number."""
    return isinstance(value, kind) and (kind is bool or not isinstance(value, bool))


def shape_faults(found, fields):
    """One line for each field that is missing or of another type."""
    for name, kind in fields.items():
        if name not in found:
            yield f"{name} is missing"
        elif not is_a(found[name], kind):
            yield f"{name} is {found[name]!r}"


def up_faults(found):
    """What is wrong with the report of `up --once`."""
    usage = found["usage"]
    tokens = usage.get("prompt_tokens", 0) + usage.get("completion_tokens", 0)
    yield from shape_faults(usage, {"prompt_tokens": int, "completion_tokens": int, "total_tokens": int})
    rules = {
        "the answer is empty": found["answer"].strip(),
        "the receipt did not verify": found["receipt_verified"],
        "no audit was done": found["audits_done"] > 0,
        "an audit of an honest node failed": found["audits_passed"] == found["audits_done"],
        "coordination took no time": found["coordination_cpu_us_per_task"] > 0,
        "tokens don't add up": usage.get("total_tokens") == tokens,
    }
    yield from (fault for fault, holds in rules.items() if not holds)


def cheat_faults(found):
    """What is wrong with the report of `up --once --cheat`."""
    rules = {
        "the verdict took no token": found["tokens_to_verdict"] > 0,
        "the verdict took no audit": found["audits_to_verdict"] > 0,
        "nothing was withheld from the cheat": found["withheld_micro_credits"] > 0,
        "an honest node was sanctioned": found["honest_nodes_sanctioned"] == 0,
    }
    yield from (fault for fault, holds in rules.items() if not holds)


def read(path):
    """The one JSON object in a file."""
    with open(path, encoding="utf-8") as file:
        return json.load(file)


def digest_faults(first, second):
    """What is wrong with two runs of the simulation with one seed."""
    if not is_a(first.get("digest"), str) or not first["digest"]:
        yield "digest is missing"
    elif first["digest"] != second.get("digest"):
        yield f"digest {first['digest']} in one run, {second.get('digest')} in the other"


def main(what, *paths):
    """Prints each fault; true if there is none."""
    found = [read(path) for path in paths]
    if what == "digests":
        faults = list(digest_faults(*found))
    else:
        fields, rules = {"up": (UP, up_faults), "cheat": (CHEAT, cheat_faults)}[what]
        faults = list(shape_faults(found[0], fields)) or list(rules(found[0]))
    for fault in faults:
        print(f"{what}: {fault}")
    return not faults


if __name__ == "__main__":
    sys.exit(0 if main(*sys.argv[1:]) else 1)
