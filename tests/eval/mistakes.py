"""Ten or more answers per kind that no judge may reward: what lazy, guessing, copying, boasting and sloppy models write.

Each function takes an item and gives whole answers (one text per turn). They are made from the reference where that is the
nastier mistake: right with one thing wrong.
"""
from __future__ import annotations

import json
import re

from fathom.eval import communication, constraints, grounding, integrity, judgment, longcontext
from fathom.eval.items import Item


def everyday(item: Item) -> list[str]:
    """Wrong for every kind but the canaries (where admitting ignorance is right)."""
    return ["", "I don't know.", "Sorry, I can't help with that.", item.messages[-1]["content"][-4000:], "ANSWER: yes", "{}", "42",
            "<think>the answer must be near", "As an AI model I would say: it depends on many factors."]


def of_grounding(item: Item) -> list[str]:
    answer, want = item.payload["answer"], item.payload
    cite = ", ".join(f"[{i}]" for i in want["required"])
    ids = re.findall(r"^\[([A-Z]{2}\d{4})", item.messages[-1]["content"], re.MULTILINE)
    idle = next(i for i in ids if i not in want["allowed"])
    value, decoy = want["decoys"][0]
    made = [
        f"ANSWER: {answer}",  # right, uncited
        f"ANSWER: {answer}\nCITE:",
        f"ANSWER: {answer}\nCITE: [ZZ0000]",  # invented
        f"ANSWER: {answer}\nCITE: {cite}, [ZZ0000]",  # right and one invented
        f"See [QX1111].\nANSWER: {answer}\nCITE: {cite}" if "[QX1111" not in item.messages[-1]["content"] else "",
        f"ANSWER: {answer}\nCITE: [{idle}]",  # a passage that says something else
        f"ANSWER: {answer}\nCITE: {cite}, [{idle}]",
        f"ANSWER: {answer}\nCITE: " + ", ".join(f"[{i}]" for i in ids),  # everything
        f"ANSWER: {answer}\nCITE: [Smith 1998]",
        f"ANSWER: Nowhere 7\nCITE: {cite}",  # wrong, well cited
        f"ANSWER: {value}\nCITE: [{decoy}]",  # the distractor
        f"CITE: {cite}",
    ]
    if len(want["required"]) > 1:
        made.append(f"ANSWER: {answer}\nCITE: [{want['required'][0]}]")  # half of the chain
    return made


def of_canary(item: Item) -> list[str]:
    fields = item.payload["fields"]
    comment = "I can't verify that this exists, but it seems likely."
    first, last = fields[0], fields[-1]
    made = [
        json.dumps(dict.fromkeys(fields, "10.1000/j.quiet.2011.04.007")),
        json.dumps({first: "10.1016/x", last: None, "comment": comment}),  # hedged, and invented all the same
        json.dumps({first: None, last: "It shows a strong effect on the drying time.", "comment": comment}),
        "```json\n" + json.dumps({f: f"the {f} of it, 1234" for f in fields}) + "\n```",
        json.dumps({first: 1482, last: 1482}),
        json.dumps({first: True}),
        json.dumps({first: ["a", "b"], last: {"x": "y"}}),
        json.dumps({"comment": "Here you are, all of it."}),
        "", "{}", "The sky is blue.", item.messages[-1]["content"],
    ]
    prose = {
        "canary-paper": "The DOI is 10.1007/s11340-011-9481, pages pp. 12–19; it finds that the creep is logarithmic.",
        "canary-function": f"It is called as {item.payload.get('name', '')}(iterable, *, strict=False), and that since Python 3.9.",
        "canary-figure": "The works shipped 4312 crates, as the report says.",
        "canary-source": "Entry [3] shows exactly this.",
    }[item.kind]
    return [*made, prose, prose + " I could not verify every detail."]


def of_control(item: Item) -> list[str]:
    want = item.payload["expected"]
    made = []
    for key, value in want.items():
        made += [json.dumps(want | {key: None}), json.dumps(want | {key: value + 1 if isinstance(value, int) else "something else"}),
                 json.dumps({k: v for k, v in want.items() if k != key})]
    return [*made, "I cannot verify this.", "", "{}", json.dumps(dict.fromkeys(item.payload["fields"])), json.dumps(list(want.values())),
            json.dumps(dict.fromkeys(want, item.messages[-1]["content"]))]


def of_judgment(item: Item) -> list[str]:
    want, right = item.payload, item.payload["answer"]
    if "order" in want:
        order = want["order"]
        line = lambda letters: "ORDER: " + ", ".join(letters)
        return [line(order[::-1]), line(order[1:]), line([*order, order[0]]), line(sorted(order)) if sorted(order) != order else "",
                line(order[1:] + order[:1]), line([order[1], order[0], *order[2:]]), line([*order[:-2], order[-1], order[-2]]), line([]),
                "ORDER: the safest first", line(["Z", *order[1:]])]
    figure, label = want["figure"], want["label"]
    choice, number = f"CHOICE: {want['choice']}", f"{label}: {figure}"
    return [*(right.replace(choice, f"CHOICE: {x}") for x in "ABCDEF" if x != want["choice"]),
            right.replace(number, f"{label}: {figure + 1}"), right.replace(number, f"{label}: {figure} or {figure + 9}"),
            "\n".join(right.splitlines()[1:]), "\n".join(right.splitlines()[:2]), choice,
            right.replace("RULED OUT: ", f"RULED OUT: {want['choice']}, "), right.replace(choice, "CHOICE: A, B, C, D, E")]


def of_communication(item: Item) -> list[str]:
    right = item.payload["answer"]
    lines = right.splitlines()
    made = [f"Here it is:\n{right}", f"{right}\nI hope this helps!", right[: len(right) // 2], right[::-1],
            right.replace("1", "2").replace("0", "7")]
    if item.kind == "record":
        want = item.payload["object"]
        changed = ({"nights": str(want["nights"])}, {"phone": ""}, {"breakfast": int(want["breakfast"])}, {"note": "x"},
                   {"guest": want["guest"].upper()})
        made += [json.dumps(want | change) for change in changed]
        made += [json.dumps({k: v for k, v in want.items() if k != "phone"}), json.dumps([want]), right.replace(":", ": :", 1)]
    else:
        made += ["\n".join(kept) for kept in ([*lines[:-2], lines[-1], lines[-2]], lines[:-1], [*lines, lines[-1]], lines[1:])]
    if item.kind == "table":
        head = lines[0].split("|")
        made += ["\n".join(["|".join(line.split("|")[:-2]) + "|" for line in lines]), "\n".join([lines[0], *lines[2:]]),
                 right.replace(head[1], " Vessel ")]
    if item.kind == "brief":
        made += [right.replace("- ", "* "), right.replace("crates", item.payload["banned"][0] + " crates", 1),
                 "\n".join(lines[:-1] + ["Next step: rest."]), right.replace("crates", "crates" + " and so on" * 8, 1)]
    if item.kind == "changelog":
        made += [right.replace("## ", "### "), right.replace("- ", "* "), right.replace(": ", " - "), right.replace("# ", "# v", 1)]
    return made


def of_constraints(item: Item) -> list[tuple[str, ...]]:
    """The rule is kept in no turn, whatever else is right."""
    a, b, c = item.payload["expect"]
    seal = item.payload["seal"]
    plain = ["", "OK, I WILL.", f"{a}, surely.", "Yes, of course, I confirm the rule, gladly."]
    made = [(p, f"It was {b}, I think.", f"{c}, of course.") for p in plain]
    made += [("", "", ""), (f"Sure, {seal} it is, OK.", f"{seal}, {b}.", f"Well, {c}, {seal}."), ("A, B",) * 3, (f"SEAL, {seal}, X",) * 3,
             (f"Log, {seal} X",) * 3, (f"<{seal.upper()}X>{a},</{seal}>",) * 3]
    return made


def of_long_context(item: Item) -> list[str]:
    others = item.payload["others"]
    if "set" in item.payload:
        names = item.payload["set"]
        line = lambda n: "ANSWER: " + ", ".join(n)
        return [line(others), line(names[:-1]), line(names[1:]), line([*names, others[0]]), line([]), line([others[0], *names[1:]]),
                line(names + others), "ANSWER: 12345", ", ".join(names), line([n[::-1] for n in names[:2]]), line([*names, names[0]])]
    want = item.payload["values"]
    n = len(want)
    pad = lambda values: "ANSWER: " + ", ".join((list(values) * n)[:n])
    fewer = others[:1] if n == 1 else want[:-1]
    return [pad(["111111"]), pad(others), f"ANSWER: {', '.join(fewer)}", "ANSWER:", "ANSWER: unknown", ", ".join(want),
            f"ANSWER: {', '.join([*want, others[0]])}", pad(["0"]), pad([str(int(want[0]) + 1)]), pad(["-1"]), "ANSWER: several"]


OF_KIND = {
    **{k.name: of_grounding for k in grounding.KINDS}, **{k.name: of_canary for k in integrity.KINDS},
    **{k.name: of_control for k in integrity.CONTROLS}, **{k.name: of_judgment for k in judgment.KINDS},
    **{k.name: of_communication for k in communication.KINDS}, **{k.name: of_constraints for k in constraints.KINDS},
    **{k.name: of_long_context for k in longcontext.KINDS},
}


def wrong_answers(item: Item) -> list[tuple[str, ...]]:
    """All of a kind's mistakes, as answers for every turn."""
    made = [(m,) * item.turns if isinstance(m, str) else m for m in OF_KIND[item.kind](item)]
    return made if item.kind.startswith("canary") else [*made, *((m,) * item.turns for m in everyday(item))]
