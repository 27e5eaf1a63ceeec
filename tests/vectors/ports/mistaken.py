"""The Python device with one mistake, by name: each is one that a port may well make, and the kit must find."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping
from typing import Any, Final

from edge_runtime.protocol.keys import digest
from tests.vectors.ports import reference

Question = Mapping[str, Any]
Answer = dict[str, Any]


def _changed(question: Question, **given: Any) -> Answer:
    return reference.answer({**question, "input": {**question["input"], **given}})


def trusts_any_address(question: Question, answer: Answer) -> Answer:
    """Takes the digest of what came for the digest that was asked for."""
    raw = question["input"].get("raw", "")
    return _changed(question, sha256=digest(bytes.fromhex(raw)).hex()) if "sha256" in question["input"] else answer


def one_code_for_all(question: Question, answer: Answer) -> Answer:
    return {"refused": "malformed"} if "refused" in answer else answer


def accepts_everything(question: Question, answer: Answer) -> Answer:
    return {"ok": {}} if "refused" in answer else answer


def rounds_to_nearest(question: Question, answer: Answer) -> Answer:
    if question["vector"] != "report.write":
        return answer
    return _changed(question, draws=[0.5] * len(question["input"]["draws"]))


def leaves_out_the_query(question: Question, answer: Answer) -> Answer:
    if question["vector"] != "request.sign":
        return answer
    return _changed(question, target=question["input"]["target"].partition("?")[0])


def signs_with_another_key(question: Question, answer: Answer) -> Answer:
    return _changed(question, private_key="11" * 32) if question["vector"] == "request.sign" else answer


def lanes_are_unsigned(question: Question, answer: Answer) -> Answer:
    if question["vector"] != "report.open" or "ok" not in answer:
        return answer
    return {"ok": {"lanes": [lane % (1 << 32) for lane in answer["ok"]["lanes"]]}}


def writes_whole_floats_as_integers(question: Question, answer: Answer) -> Answer:
    if question["vector"] != "float.write":
        return answer
    return {"ok": {"text": answer["ok"]["text"].removesuffix(".0")}}


def keeps_the_order_of_keys(question: Question, answer: Answer) -> Answer:
    if question["vector"] != "message.rewrite" or "ok" not in answer:
        return answer
    return {"ok": {"json": json.dumps(json.loads(question["input"]["json"]), separators=(",", ":"))}}


def forgets_the_tenant(question: Question, answer: Answer) -> Answer:
    return _changed(question, tenant="") if question["vector"] == "device.id" else answer


MISTAKES: Final[Mapping[str, Callable[[Question, Answer], Answer]]] = {
    one.__name__: one
    for one in (
        trusts_any_address,
        one_code_for_all,
        accepts_everything,
        rounds_to_nearest,
        leaves_out_the_query,
        signs_with_another_key,
        lanes_are_unsigned,
        writes_whole_floats_as_integers,
        keeps_the_order_of_keys,
        forgets_the_tenant,
    )
}


def main(mistake: str) -> None:
    for line in sys.stdin:
        question = json.loads(line)
        print(json.dumps(MISTAKES[mistake](question, reference.answer(question))))


if __name__ == "__main__":
    main(sys.argv[1])
