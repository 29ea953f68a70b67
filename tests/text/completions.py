"""Completions for the parser's tests: well-formed ones, and the same broken in the ways models have been seen to break them.

Words like `w17` are unique within a completion, so a test can see that none is lost.
"""
import re

D = "｜DSML｜"
EOS = "<｜end▁of▁sentence｜>"


def parameter(name, value, string=True):
    return f'<{D}parameter name="{name}" string="{"true" if string else "false"}">{value}</{D}parameter>\n'


def call(name, *parameters):
    return f'<{D}invoke name="{name}">\n{"".join(parameters) or chr(10)}</{D}invoke>\n'


def block(*calls):
    return f"\n\n<{D}tool_calls>\n{''.join(calls)}</{D}tool_calls>"


TWO = block(call("w1", parameter("w2", "w3 \"w4\"\n  é🙂\\"), parameter("w5", "[1, null]", False)), call("w6"))
CODE = block(call("w1", parameter("w2", "if a < b:\n    print(\"<p>w3</p>\")\n\n"), parameter("w4", '{"w5": ["w6", 1.50]}', False)))

BASES = {  # name → (mode, text, calls as (name, arguments))
    "plain": ("chat", f"w1 w2\n\n- w3 < w4{EOS}", []),
    "reasoned": ("thinking", f"w10\n\nw11</think>w1\nw2{EOS}", []),
    "empty": ("thinking", f"</think>{EOS}", []),
    "two calls": ("thinking", f"w10 w11\n</think>w12{TWO}{EOS}",
                  [("w1", '{"w2": "w3 \\"w4\\"\\n  é🙂\\\\", "w5": [1, null]}'), ("w6", "{}")]),
    "silent call": ("chat", f"{TWO}{EOS}", [("w1", '{"w2": "w3 \\"w4\\"\\n  é🙂\\\\", "w5": [1, null]}'), ("w6", "{}")]),
    "code": ("thinking", f"w10</think>w11:\n\n```py\nw12 <b\n```{CODE}{EOS}",
             [("w1", '{"w2": "if a < b:\\n    print(\\"<p>w3</p>\\")\\n\\n", "w4": {"w5": ["w6", 1.50]}}')]),
}

BASES["three calls"] = (
    "chat",
    "w12 w13" + block(call("w1"), call("w2", parameter("w3", "-1.5e3", False)), call("w4", parameter("w5", ""), parameter("w6", "w7"))),
    [("w1", "{}"), ("w2", '{"w3": -1.5e3}'), ("w4", '{"w5": "", "w6": "w7"}')],
)

HARMLESS = {  # changes that must not change the calls
    "as it is": lambda t: t,
    "no EOS": lambda t: t.removesuffix(EOS),
    "ASCII bars": lambda t: t.replace(D, "|DSML|"),
    "ASCII bars everywhere": lambda t: t.replace("｜", "|"),
    "double bars": lambda t: t.replace(D, "｜｜DSML｜｜"),
    "double ASCII bars and a space": lambda t: t.replace(D, "||DSML|| "),
    "other bars": lambda t: t.replace(D, "‖DSML‖"),
    "mixed bars": lambda t: t.replace(f"</{D}", "</|DSML|").replace(f"<{D}inv", "<｜DSML|inv"),
    "spaces in the opening": lambda t: t.replace(f"<{D}", "< | DSML | "),
    "slash after the bars": lambda t: t.replace(f"</{D}", f"<{D}/"),
    "V3.2's block name": lambda t: t.replace("tool_calls>", "function_calls>"),
    "short block name": lambda t: t.replace("tool_calls>", "calls>"),
    "no wrapper": lambda t: re.sub(f"\n?</?{D}tool_calls>\n?", "", t),
    "no closing wrapper": lambda t: t.replace(f"</{D}tool_calls>", ""),
    "no opening wrapper": lambda t: t.replace(f"<{D}tool_calls>\n", ""),
    "calls not closed": lambda t: t.replace(f"</{D}invoke>\n", ""),
    "neither calls nor wrapper closed": lambda t: re.sub(f"</{D}(invoke|tool_calls)>\n?", "", t),
    "brackets forgotten": lambda t: re.sub(f"(<{D}tool_calls|<{D}invoke name=\"w\\d\"|</{D}parameter|</{D}invoke)>\n(?=<)", r"\1\n", t),
    "other quotes": lambda t: re.sub('name="(w\\d)"', r"name='\1'", t),
    "no quotes": lambda t: re.sub('name="(w\\d)"', r"name=\1", t),
    "attributes turned": lambda t: re.sub('(name="w\\d") (string="\\w+")', r"\2 \1", t),
    "attribute spelled differently": lambda t: t.replace('string="true"', "string='True'").replace('string="false"', "string=False"),
    "on one line": lambda t: re.sub(f">\n+(?=</?{D})", ">", t),
    "indented": lambda t: re.sub(f"\n(?=<{D}(invoke|par)|</{D}invoke)", "\n   ", t),
    "thinking opened again": lambda t: "<think>" + t,
    "wrapper twice": lambda t: t.replace(f"<{D}tool_calls>\n", f"<{D}tool_calls>\n<{D}tool_calls>\n"),
    "EOS twice": lambda t: t + EOS,
    "next turn hallucinated": lambda t: t + "<｜User｜>w90 w91<｜Assistant｜></think>w92" + EOS,
}

HARMFUL = {  # changes that may change the calls, but must keep the other laws
    "thinking not closed": lambda t: t.replace("</think>", ""),
    "block in the reasoning": lambda t: "w80" + TWO.replace("w", "w7") + "w81" + t,
    "tags told in the reasoning": lambda t: f"w80 <{D}tool_calls> then <{D}invoke> or </{D}parameter> and ｜DSML｜ w81 " + t,
    "parameters not closed": lambda t: t.replace(f"</{D}parameter>", ""),
    "nothing closed": lambda t: re.sub(f"</{D}\\w+>", "", t),
    "call without a name": lambda t: re.sub(' name="w1"', "", t),
    "parameter without a name": lambda t: re.sub(' name="w2"', "", t),
    "parameters without a type": lambda t: re.sub(' string="\\w+"', "", t),
    "parameter twice": lambda t: re.sub(f"(<{D}parameter.*?/{D}parameter>)", r"\1\1", t, flags=re.DOTALL),
    "not JSON": lambda t: t.replace('string="true"', 'string="false"'),
    "body as JSON": lambda t: re.sub(f'<{D}parameter name="(w\\d)" string="true">.*?</{D}parameter>', r'{"\1": 1}', t, flags=re.DOTALL),
    "words between tags": lambda t: re.sub(f"\n(?=<{D}(invoke|par))", " w88 ", t, count=1),
    "no block after all": lambda t: t.replace(f"<{D}invoke", "w85"),
    "empty block": lambda t: f"w86\n\n<{D}tool_calls>\n</{D}tool_calls>\n\nw87" + t,
    "stray closing tags": lambda t: f"w82</{D}parameter>w83</{D}invoke>w84</{D}tool_calls>" + t,
    "control tokens in the text": lambda t: "w82<｜User｜>w83<｜begin▁of▁sentence｜>｜DSML｜w84<｜action｜></think></think>" + t,
    "put together by removal": lambda t: "w82<thi<think>nk>w83<｜DS<think>ML｜w84</thi<｜User｜>nk>" + t,
    "EOS in the middle": lambda t: t.replace("w3", "w3" + EOS + "w89"),
    "unknown tag": lambda t: t.replace("invoke", "invocation"),
    "cut in the middle": lambda t: t[: len(t) // 2],
    "cut before the end": lambda t: t.removesuffix(EOS)[:-12],
    "cut in the last tag": lambda t: t[: t.rfind(D) + 4] if D in t else t[:-3],
}


def all_of_them():
    """(name, mode, text, calls) of all that differ; calls is None where the change may cost some."""
    seen = set()
    for base, (mode, text, calls) in BASES.items():
        for name, change in {**HARMLESS, **HARMFUL}.items():
            changed = change(text)
            if (mode, changed) not in seen:
                seen.add((mode, changed))
                yield f"{base}, {name}", mode, changed, calls if name in HARMLESS else None
