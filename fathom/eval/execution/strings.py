"""Tasks on text: brackets, runs, ciphers, patterns, small languages. See task.py for how a task is written."""
from __future__ import annotations

import random

from fathom.eval.execution.task import Task, Template, task

WORDS = """
amber anchor arrow basil birch bridge cable candle cedar cliff cobalt copper coral delta ember falcon fern flint garnet grove harbor hazel
ivory jade juniper kettle lantern linen maple marble meadow mint nectar oak onyx opal orbit pepper pine quartz raven reed river saffron
sage slate spruce stone tide timber tulip velvet walnut willow zephyr
""".split()


def word(rng: random.Random, low: int, high: int, letters: str = "abc") -> str:
    """Random letters, `low` to `high` of them."""
    return "".join(rng.choice(letters) for _ in range(rng.randint(low, high)))


def bracket_check(rng: random.Random) -> Task:
    """Matching brackets: the first fault, or the depth."""
    pairs = rng.choice(["()[]", "()[]{}", "()<>", "[]{}"])
    result = rng.choice(["position", "depth"])
    text = f"""The string `text` holds brackets of the kinds {' '.join(pairs[i:i + 2] for i in range(0, len(pairs), 2))} and other
    characters, which do not matter.
    """ + ("""Return the index of the first closing bracket that does not match the innermost open one (or that comes when none is open);
    if there is none but brackets stay open, return len(text); if everything matches return -1.""" if result == "position" else
           """Return the greatest nesting depth if all brackets match (closed by their own kind, innermost first); otherwise return -1.
    Text without brackets has depth 0.""")
    closers = ", ".join(f"'{pairs[i + 1]}': '{pairs[i]}'" for i in range(0, len(pairs), 2))
    source = """
def $name(text):
    opener = {$closers}
    stack = []
    deepest = 0
    for i, c in enumerate(text):
        if c in opener.values():
            stack.append(c)
            deepest = max(deepest, len(stack)«¦ - 1»)
        elif c in opener:
            if not stack or «stack[-1] != opener[c]¦stack[0] != opener[c]»:
                return $bad
            stack.pop(«¦0»)
    «if stack:¦if len(stack) > 1:»
        return $open
    return $good
"""
    cases = []
    for _ in range(14):
        stack, out = [], []
        for _ in range(rng.randint(4, 9)):
            if stack and rng.random() < 0.5:
                out.append(stack.pop())
            else:
                kind = rng.randrange(len(pairs) // 2)
                out.append(pairs[2 * kind])
                stack.append(pairs[2 * kind + 1])
            out.append(word(rng, 0, 1, "xy"))
        out += reversed(stack) if rng.random() < 0.7 else []
        if rng.random() < 0.25:
            out.insert(rng.randrange(len(out)), rng.choice(pairs))
        cases.append("".join(out))
    a, z, b, y = pairs[0], pairs[1], pairs[2], pairs[3]
    cases += ["", "plain", a, z, a + z, a + b + y + z, a + b + z + y, a + a + b, a + z + z, a + z + b + y, a + b + y + b + y + z]
    return task(rng.choice(["check_brackets", "inspect_nesting", "bracket_report"]), "text", text, source, [[c] for c in cases],
                closers=closers,
                bad="i" if result == "position" else "-1", open="len(text)" if result == "position" else "-1",
                good="-1" if result == "position" else "deepest")


def compress(rng: random.Random) -> Task:
    """Run lengths, short runs left alone."""
    least = rng.randint(2, 4)
    front = rng.choice([True, False])
    form = "3a" if front else "a3"
    text = f"""Shorten runs in the string `text` (lower-case letters only): a run of at least {least} equal letters is written as
    {'its length followed by the letter' if front else 'the letter followed by its length'} (for example {form} for aaa, were it long
    enough);
    shorter runs stay as they are. Return the new string."""
    source = """
def $name(text):
    out = []
    i = 0
    while i < len(text):
        j = i
        while j < len(text) and text[j] == text[i]:
            j += 1
        length = j - i
        if length «>=¦>» $least:
            out.append($form)
        else:
            out.append(text[i]«* length¦»)
        i = j
    return "".join(out«¦[:-1]»)
"""
    cases = ["".join(rng.choice("abc") * rng.randint(1, 5) for _ in range(rng.randint(4, 7))) for _ in range(12)]
    cases += ["", "a", "aa", "aaa", "aaaa", "abab", "aabbb", "z" * 12]
    return task(rng.choice(["shorten_runs", "pack_text", "squeeze"]), "text", text, source, [[c] for c in cases], least=least,
                form="str(length) + text[i]" if front else "text[i] + str(length)")


def cipher(rng: random.Random) -> Task:
    """A shifting cipher with a key word."""
    key = "".join(rng.sample("bcdefghijklmnopqrstuvwxyz", rng.randint(2, 4)))
    sign, verb = rng.choice([("+", "forward"), ("-", "backward")])
    skip = rng.choice([True, False])
    text = f"""Encrypt the string `text` with the key "{key}": each letter is moved {verb} in the alphabet by the position of the
    current key letter
    (a = 0, b = 1, …), past the end going round; the case of the letter is kept. The key's letters are used in turn, over and over.
    Characters other than a–z and A–Z stay as they are and {'use up no key letter' if skip else 'use up a key letter too'}. Return the
    result."""
    source = """
def $name(text):
    out = []
    used = 0
    for c in text:
        if c.isascii() and c.isalpha():
            first = ord("A") if c.isupper() else ord("a")
            shift = ord("$key"[used % len("$key")]) - ord("a")
            out.append(chr(first + (ord(c) - first «$sign¦$other» shift) % «26¦25»))
            «$inside¦used += 2»
        else:
            out.append(c)
$outside    return "".join(out)
"""
    cases = []
    for _ in range(12):
        words = [rng.choice(WORDS) for _ in range(rng.randint(2, 4))]
        cases.append(rng.choice([" ", ", ", "-"]).join(w.title() if rng.random() < 0.3 else w for w in words) + rng.choice(["", "!", "?"]))
    cases += ["", "z", "Zz", "a b c d", "123", "xyz XYZ", "...a"]
    return task(rng.choice(["encrypt", "scramble", "encode"]), "text", text, source, [[c] for c in cases], key=key, sign=sign,
                other="-" if sign == "+" else "+", inside="used += 1", outside="" if skip else "            used += 1\n")


def wrap_words(rng: random.Random) -> Task:
    """Filling lines with words."""
    fill = rng.choice(["left", "right", "dots"])
    text = """Break `text` (words separated by single spaces) into lines of at most `width` characters: put as many words on a line
    as fit, with one space
    between them; a word longer than `width` stands alone on its own line, unbroken. """ + {
        "left": "Return the list of lines, without trailing spaces.",
        "right": "Return the list of lines, each filled with spaces on the left to `width` (longer lines stay as they are).",
        "dots": "Return the list of lines, each filled with dots (.) on the right to `width` (longer lines stay as they are).",
    }[fill] + " For an empty text return an empty list."
    shape = {"left": "line", "right": "line.rjust(width)", "dots": "line.ljust(width, '.')"}[fill]
    source = """
def $name(text, width):
    lines = []
    line = ""
    for word in text.split():
        if not line:
            line = word
        elif len(line) + «1 + ¦»len(word) «<=¦<» width:
            line += " " + word
        else:
            lines.append(line)
            line = «word¦""»
    «if line:¦if len(line) > width:»
        lines.append(line)
    return [$shape for line in lines]
"""
    cases = [[" ".join(rng.choice(WORDS) for _ in range(rng.randint(6, 12))), rng.randint(9, 18)] for _ in range(12)]
    cases += [["", 5], ["stone", 5], ["stone", 4], ["a b c d e f", 3], ["ab cd ef", 5], ["a juniper b", 3], ["ab cd", 4]]
    return task(rng.choice(["wrap", "break_lines", "set_lines"]), "text, width", text, source, cases, shape=shape)


def wildcard(rng: random.Random) -> Task:
    """Patterns with a joker for one and one for many."""
    many, one = rng.choice(["*?", "%_", "#@"])
    least = rng.choice([0, 1])
    text = f"""Return True if the whole string `text` fits the pattern `pattern`, else False. In the pattern {one} stands for exactly
    one character, whatever it is,
    {many} for {'any number of characters, also none' if least == 0 else 'one or more characters'}, and every other character for
    itself. Several {many} may follow each
    other. Strings may have 40 characters and patterns ten {many}, so trying everything takes too long."""
    source = """
def $name(pattern, text):
    fits = [[False] * (len(text) + 1) for _ in range(len(pattern) + 1)]
    fits[0][0] = True
    for i, p in enumerate(pattern, 1):
        for j in range(len(text) + 1):
            if p == "$many":
                fits[i][j] = $star
            elif j and (p == "$one" or «p == text[j - 1]¦p == text[0]»):
                fits[i][j] = fits[i - 1][j - 1]
    return fits[«-1¦-2»][-1] if pattern else not text
"""
    star = ("«fits[i - 1][j]¦False» or (j > 0 and fits[i][j - 1])" if least == 0 else
            "j > 0 and («fits[i - 1][j - 1]¦fits[i - 1][j]» or fits[i][j - 1])")
    cases = []
    for _ in range(22):
        plain = word(rng, 4, 9)
        pattern = ""
        i = 0
        while i < len(plain):
            roll = rng.random()
            if roll < 0.25:
                pattern += many
                i += rng.randint(least, 3)
            elif roll < 0.45:
                pattern += one
                i += 1
            else:
                pattern += plain[i] if roll < 0.95 else "c"
                i += 1
        cases.append([pattern, plain])
    cases += [["", ""], ["", "a"], [many, ""], [many, "abc"], [one, ""], [many + many, "a"], ["a" + many, "a"], [many + "b", "ab"],
              ["ab" + one, "ab"],
              [(many + "a") * 10 + "b", "a" * 40], [many + "a" + many, "bcabc"], [one + many, "a"], ["a" + many + "c", "abcbc"]]
    return task(rng.choice(["fits", "is_match", "accepts"]), "pattern, text", text, source.replace("$star", star), cases, many=many,
                one=one)


def calculator(rng: random.Random) -> Task:
    """Expressions with unusual ranks of operators."""
    style = rng.choice(["left", "swapped", "usual"])
    rule = {
        "left": "All operators have the same rank and are applied strictly from left to right (2+3*4 is 20).",
        "swapped": "+ and - bind tighter than *: sums are worked out before products (2*3+4 is 14); equal ranks go from left to right.",
        "usual": "* binds tighter than + and -; equal ranks go from left to right.",
    }[style]
    text = f"""Work out the value of `expression`, a string of non-negative integers, the operators + - * and parentheses, without
    spaces, always well formed
    (no unary minus). {rule} Parentheses come first, as always. Return an integer. Nesting may be 30 deep."""
    ranks = {"left": "{'+': 1, '-': 1, '*': 1}", "swapped": "{'+': 2, '-': 2, '*': 1}", "usual": "{'+': 1, '-': 1, '*': 2}"}[style]
    source = """
def $name(expression):
    rank = $ranks
    values, waiting = [], []

    def apply():
        op, right, left = waiting.pop(), values.pop(), values.pop()
        values.append(left + right if op == "+" else «left - right¦right - left» if op == "-" else left * right)

    i = 0
    while i < len(expression):
        c = expression[i]
        if c.isdigit():
            j = i
            while j < len(expression) and expression[j].isdigit():
                j += 1
            values.append(int(expression[i:«j¦i + 1»]))
            i = j
            continue
        if c == "(":
            waiting.append(c)
        elif c == ")":
            while waiting[-1] != "(":
                apply()
            waiting.pop()
        else:
            while waiting and waiting[-1] != "(" and rank[waiting[-1]] «>=¦>» rank[c]:
                apply()
            waiting.append(c)
        i += 1
    while waiting:
        apply()
    return values[0]
"""

    def expression(depth: int) -> str:
        parts = []
        for i in range(rng.randint(2, 4)):
            parts += [rng.choice("+-*")] if i else []
            parts.append(f"({expression(depth - 1)})" if depth and rng.random() < 0.35 else str(rng.randint(0, 30)))
        return "".join(parts)
    cases = [expression(2) for _ in range(14)]
    cases += ["7", "(7)", "10-2-3", "2-3*4", "2*3+4", "2+3*4", "((12))*(3-5)", "(" * 30 + "5" + ")" * 30 + "-1", "9-(8-(7-(6-5)))",
              "1-2*3-4*5"]
    return task(rng.choice(["calculate", "evaluate", "work_out"]), "expression", text, source, [[c] for c in cases], ranks=ranks)


def common_part(rng: random.Random) -> Task:
    """Longest common substring or subsequence."""
    kind = rng.choice(["substring", "subsequence"])
    result = rng.choice(["length", "removed"])
    what = {"substring": "substring (neighbouring characters)",
            "subsequence": "subsequence (characters in the same order, not necessarily neighbours)"}[kind]
    text = f"""Let L be the length of the longest common {what} of the strings `a` and `b`. Return
    {'L' if result == 'length' else 'how many characters of both together lie outside it: len(a) + len(b) - 2·L'}.
    The strings may have 150 characters."""
    if kind == "substring":
        step = ("                row[j] = above[j - 1] + 1\n                best = «max(best, row[j])¦row[j]»\n",
                "", "best")
    else:
        step = ("                row[j] = above[j - 1] + 1\n",
                "            else:\n                row[j] = max(above[j], «row[j - 1]¦above[j - 1]»)\n", "«above[-1]¦above[0]»")
    source = """
def $name(a, b):
    best = 0
    above = [0] * (len(b) + 1)
    for i in range(«len(a)¦len(a) - 1»):
        row = [0] * (len(b) + 1)
        for j in range(1, len(b) «+ 1¦»):
            if a[i] == b[j - 1]:
$equal$differ        above = row
    longest = $longest
    return $result
""".replace("$equal", step[0]).replace("$differ", step[1]).replace("$longest", step[2])
    cases = [[word(rng, 6, 11), word(rng, 6, 11)] for _ in range(14)]
    cases += [["", ""], ["", "abc"], ["abc", ""], ["abc", "abc"], ["abc", "xyz"], ["ab" * 60, "ba" * 70], ["cab", "abc"], ["xa", "ya"],
              ["abcx", "abc"]]
    return task(rng.choice(["common_part", "overlap", "shared"]), "a, b", text, source, cases,
                result="longest" if result == "length" else "len(a) + len(b) - 2 * longest")


def edit_cost(rng: random.Random) -> Task:
    """Weighted edit distance."""
    insert, delete = rng.sample(range(1, 5), 2)
    swap = rng.randint(max(2, insert, delete), insert + delete)
    text = f"""Return the smallest total cost of turning the string `a` into the string `b`, where inserting a character costs
    {insert}, deleting one costs {delete},
    and replacing one by another costs {swap}. Leaving a character costs nothing. Strings may have 60 characters."""
    source = """
def $name(a, b):
    above = [j * «$insert¦$delete» for j in range(len(b) + 1)]
    for i in range(1, len(a) + 1):
        row = [i * «$delete¦$insert»]
        for j in range(1, len(b) + 1):
            keep = 0 if a[i - 1] == b[j - 1] else «$swap¦$swap + 1»
            row.append(min(above[j] + $delete, row[j - 1] + $insert, above[j - 1] + keep))
        above = row
    return above[-1]
"""
    cases = [[word(rng, 5, 9, "abcd"), word(rng, 5, 9, "abcd")] for _ in range(12)]
    cases += [["", ""], ["", "abc"], ["abc", ""], ["abc", "abc"], ["abc", "xyz"], ["a", "b"], ["ab" * 30, "ba" * 25], ["stone", "tones"]]
    return task(rng.choice(["edit_cost", "repair_cost", "rewrite_cost"]), "a, b", text, source, cases, insert=insert, delete=delete,
                swap=swap)


TEMPLATES = (
    Template("bracket_check", 2, bracket_check), Template("compress", 1, compress), Template("cipher", 1, cipher),
    Template("wrap_words", 2, wrap_words),
    Template("wildcard", 3, wildcard), Template("calculator", 3, calculator), Template("common_part", 3, common_part),
    Template("edit_cost", 3, edit_cost),
)
