"""Tasks on lists of numbers: runs, pairs, windows, intervals, selections. See task.py for how a task is written.

Each function draws its parameters from `rng`; what a parameter changes is said in the text, and changes the results.
"""
from __future__ import annotations

import random

from fathom.eval.execution.task import Task, Template, ints, task


def longest_run(rng: random.Random) -> Task:
    """Longest run of neighbours that stand in a relation."""
    words, right, wrong = rng.choice([
        ("strictly increasing", "> values[i - 1]", ">= values[i - 1]"), ("strictly decreasing", "< values[i - 1]", "<= values[i - 1]"),
        ("non-decreasing (each at least the one before)", ">= values[i - 1]", "> values[i - 1]"),
        ("non-increasing (each at most the one before)", "<= values[i - 1]", "< values[i - 1]"),
        ("alternating in parity (neighbours are never both even or both odd)", "% 2 != values[i - 1] % 2", "% 2 == values[i - 1] % 2"),
    ])
    what = rng.choice(["length", "start"])
    text = f"""Look at the runs of neighbouring values in the list `values` that are {words}. Return the {what} of the longest run
    {'(a number of values)' if what == 'length' else '(the index of its first value)'}; of several longest, the first one counts.
    A single value is a run of length 1. For an empty list return {'0' if what == 'length' else '-1'}."""
    source = """
def $name(values):
    if not values:
        return $empty
    best_start, best_length = 0, 1
    start = 0
    for i in range(1, len(values)):
        if not values[i] «$right¦$wrong»:
            start = «i¦i - 1»
        length = i - start «+ 1¦»
        if length «>¦>=» best_length:
            best_start, best_length = start, length
    return best_$what
"""
    cases = [ints(rng, rng.randint(7, 14), 1, 7) for _ in range(12)]
    cases += [[], [4], [3, 3, 3, 3], [1, 2, 3, 4, 5, 6], [6, 5, 4, 3, 2, 1], [1, 2, 1, 2, 3, 1, 2, 3], [2, 2, 1, 1, 2, 2, 3, 3]]
    return task(rng.choice(["longest_run", "best_stretch", "top_streak"]), "values", text, source, [[c] for c in cases],
                right=right, wrong=wrong, what=what, empty=0 if what == "length" else -1)


def count_pairs(rng: random.Random) -> Task:
    """Pairs of positions with a property and a minimum distance."""
    k = rng.randint(3, 12)
    words, test = rng.choice([
        (f"values[i] + values[j] == {k}", f"values[i] + values[j] == {k}"),
        (f"the absolute difference of values[i] and values[j] is exactly {k % 5 + 1}", f"abs(values[i] - values[j]) == {k % 5 + 1}"),
        (f"values[i] * values[j] is divisible by {k}", f"values[i] * values[j] % {k} == 0"),
        (f"values[i] - values[j] is at least {k % 6 + 2}", f"values[i] - values[j] >= {k % 6 + 2}"),
    ])
    gap = rng.randint(1, 3)
    text = f"""Return how many pairs of positions i < j in the list `values` there are for which {words}
    and the positions are at least {gap} apart (j - i >= {gap})."""
    source = """
def $name(values):
    count = 0
    for i in range(len(values)):
        for j in range(i + «$gap¦$gap + 1», len(values)«¦ - 1»):
            if $test:
                count += 1
    return count
"""
    cases = [ints(rng, rng.randint(8, 16), 0, 12) for _ in range(12)] + [[], [5], [6, 6], [0] * 6, list(range(13))]
    return task(rng.choice(["count_pairs", "pairs_that_fit", "matching_pairs"]), "values", text, source, [[c] for c in cases],
                gap=gap, test=test)


def largest_drop(rng: random.Random) -> Task:
    """Best difference of two prices in order, less a fee."""
    direction = rng.choice(["drop", "rise"])
    fee = rng.randint(0, 4)
    bound, worse = ("max", "min") if direction == "drop" else ("min", "max")
    diff = "seen - value" if direction == "drop" else "value - seen"
    text = f"""`values` is a series of prices over time. Return the largest {direction}: the greatest
    {'values[i] - values[j]' if direction == 'drop' else 'values[j] - values[i]'} over all i < j, less a fixed fee of {fee}.
    If no pair gives more than 0 after the fee, or there are fewer than two values, return 0."""
    source = """
def $name(values):
    if len(values) < 2:
        return 0
    best = 0
    seen = values[0]
    for value in values[«1:¦2:»]:
        best = max(best, $diff «- $fee¦+ $fee + 1»)
        seen = «$bound¦$worse»(seen, value)
    return best
"""
    cases = [ints(rng, rng.randint(6, 12), 1, 40) for _ in range(12)]
    cases += [[], [9], [9, 1], [1, 9], [5, 5, 5], list(range(8)), list(range(8, 0, -1)), [30, 1, 1], [1, 30, 30]]
    return task(rng.choice(["largest_swing", "best_gap", "extreme_move"]), "values", text, source, [[c] for c in cases],
                diff=diff, fee=fee, bound=bound, worse=worse)


def first_position(rng: random.Random) -> Task:
    """Binary search with a condition on the index."""
    words, right, wrong = rng.choice([
        ("greater than or equal to `target`", "<", "<="), ("strictly greater than `target`", "<=", "<"),
    ])
    step = rng.choice([1, 2, 3])
    text = f"""`values` is sorted in ascending order and may hold duplicates. Return the smallest index i for which values[i] is
    {words} and
    i is a multiple of {step}. If there is no such index return -1."""
    source = """
def $name(values, target):
    low, high = 0, (len(values) + $step - 1) // $step
    while low < high:
        middle = (low + high) // 2
        if values[middle * $step] «$right¦$wrong» target:
            low = middle + 1
        else:
            high = middle
    index = low * $step
    return index if index < len(values)«¦ - 1» else «-1¦len(values)»
"""
    cases = []
    for _ in range(14):
        values = sorted(ints(rng, rng.randint(5, 14), 0, 15))
        cases.append([values, rng.choice(values)])
    cases += [[[], 3], [[4], 4], [[4], 5], [[4], 3], [[7] * 7, 7], [list(range(12)), 11], [list(range(12)), 10], [list(range(12)), -5]]
    return task(rng.choice(["first_position", "find_from", "lower_index"]), "values, target", text, source, cases,
                right=right, wrong=wrong, step=step)


def merge_intervals(rng: random.Random) -> Task:
    """Union of intervals: the list, its length or its gaps."""
    touch = rng.choice([True, False])
    result = rng.choice(["list", "total", "gaps"])
    wanted = {
        "list": "the merged intervals as a list of [start, end], sorted by start",
        "total": "the total length of the merged intervals (each counts end - start)",
        "gaps": "the free gaps between consecutive merged intervals, as a list of [end of one, start of the next], in order",
    }[result]
    text = f"""`spans` is a list of intervals [start, end] with start < end, in any order. Merge those that overlap; intervals that
    only touch
    (one ends where the other starts) {'are merged too' if touch else 'stay separate'}. Return {wanted}.
    For an empty list return {'0' if result == 'total' else 'an empty list'}."""
    last = {"list": "    return merged", "total": "    return sum(end - start for start, end in merged)",
            "gaps": "    return [[a[1], b[0]] for a, b in zip(merged, merged[1:])]"}[result]
    source = """
def $name(spans):
    merged = []
    for start, end in «sorted(spans)¦spans»:
        if merged and start «$right¦$wrong» merged[-1][1]:
            merged[-1][1] = «max(merged[-1][1], end)¦end»
        else:
            merged.append([start, end])
$last
"""

    def spans(n: int) -> list[list[int]]:
        starts = ints(rng, n, 0, 30)
        return [[s, s + rng.randint(1, 6)] for s in starts]
    cases = [spans(rng.randint(4, 9)) for _ in range(14)]
    cases += [[], [[3, 5]], [[1, 3], [3, 5]], [[5, 9], [1, 5], [9, 12]], [[1, 20], [3, 4], [6, 8], [25, 26]], [[1, 2], [5, 6]]]
    return task(rng.choice(["merge_spans", "join_intervals", "combine_bookings"]), "spans", text, source, [[c] for c in cases],
                right="<=" if touch else "<", wrong="<" if touch else "<=", last=last)


def top_by_count(rng: random.Random) -> Task:
    """Most frequent values, with a rule for ties."""
    k = rng.randint(2, 4)
    ties, key, wrong_key = rng.choice([
        ("the smaller value first", "(-counts[v], v)", "(-counts[v], -v)"),
        ("the larger value first", "(-counts[v], -v)", "(-counts[v], v)"),
        ("the one that appears first in the list", "(-counts[v], values.index(v))", "(-counts[v], -values.index(v))"),
    ])
    least = rng.randint(1, 2)
    text = f"""Return the {k} most frequent distinct values of the list `values`, most frequent first; with equal counts, {ties}.
    Values that appear fewer than {least + 1} times are left out, so the result may be shorter than {k} or empty."""
    source = """
def $name(values):
    counts = {}
    for v in values:
        counts[v] = counts.get(v, 0) + 1
    frequent = [v for v in counts if counts[v] «>¦>=» $least]
    return sorted(frequent, key=lambda v: «$key¦$wrong_key»)[:«$k¦$k - 1»]
"""
    cases = [ints(rng, rng.randint(12, 22), 1, 6) for _ in range(14)] + [[], [3], [3, 3, 3], [2, 2, 1, 1, 3, 3, 4, 4, 5, 5],
            [5, 4, 3, 2, 1]]
    return task(rng.choice(["most_frequent", "top_values", "leaders"]), "values", text, source, [[c] for c in cases],
                key=key, wrong_key=wrong_key, k=k, least=least)


def window_extremes(rng: random.Random) -> Task:
    """A value per sliding window."""
    pick, word = rng.choice([("max", "greatest"), ("min", "smallest")])
    spread = rng.random() < 0.4
    what = "the difference between its greatest and its smallest value" if spread else f"its {word} value"
    stride = rng.choice([1, 2, 3])
    text = f"""Slide a window of `width` neighbouring values over the list `values`; the windows start at index 0, {stride},
    {2 * stride}, and so on,
    as long as they fit completely. Return a list with, for each window, {what}. `width` is at least 1; if it is greater than
    len(values), return an empty list."""
    inner = "max(part) - min(part)" if spread else f"{pick}(part)"
    broken = "max(part) - part[0]" if spread else "part[-1]"
    source = """
def $name(values, width):
    found = []
    for start in range(0, len(values) - width «+ 1¦», «$stride¦$wrong_stride»):
        part = values[start:start + width]
        found.append(«$inner¦$broken»)
    return found
"""
    cases = [[ints(rng, rng.randint(8, 14), -9, 9), rng.randint(2, 4)] for _ in range(12)]
    cases += [[[], 1], [[5], 1], [[5], 2], [[1, 2, 3], 3], [list(range(9)), 1], [list(range(9, 0, -1)), 9]]
    return task(rng.choice(["window_values", "sliding", "scan_windows"]), "values, width", text, source, cases,
                stride=stride, wrong_stride=stride + 1, inner=inner, broken=broken)


def most_meetings(rng: random.Random) -> Task:
    """Greedy selection of intervals with pauses between."""
    touch = rng.choice([True, False])
    pause = rng.randint(1, 3)
    text = f"""`meetings` is a list of [start, end] with start < end. One person can attend several if they do not overlap and there
    is a pause
    of {'at least' if touch else 'more than'} {pause} between the end of one and the start of the next. Return the greatest number
    that one person
    can attend."""
    source = """
def $name(meetings):
    count = 0
    free_from = None
    for start, end in sorted(meetings, key=lambda m: «m[1]¦m[0]»):
        if free_from is None or start «$right¦$wrong» free_from:
            count += 1
            free_from = end «+ $pause¦»
    return count
"""

    def meetings(n: int) -> list[list[int]]:
        return [[s, s + rng.randint(1, 9)] for s in ints(rng, n, 0, 30)]
    cases = [meetings(rng.randint(6, 11)) for _ in range(16)]
    cases += [[], [[1, 2]], [[0, 3], [3 + pause, 9], [10 + pause, 12]], [[0, 30], [1, 2], [10, 12], [20, 22]],
              [[0, 2], [2, 4], [4, 6], [6, 8]]]
    return task(rng.choice(["most_meetings", "max_bookings", "fit_talks"]), "meetings", text, source, [[c] for c in cases],
                right=">=" if touch else ">", wrong=">" if touch else ">=", pause=pause)


def longest_subsequence(rng: random.Random) -> Task:
    """Best chain in quadratic time."""
    words, test, wrong = rng.choice([
        ("strictly increasing", "values[j] < values[i]", "values[j] <= values[i]"),
        ("non-decreasing", "values[j] <= values[i]", "values[j] < values[i]"),
        ("such that each value is divisible by the one before", "values[i] % values[j] == 0", "values[j] % values[i] == 0"),
    ])
    result = rng.choice(["length", "sum"])
    text = f"""A subsequence of the list `values` (positive integers) is what remains when some values, or none, are removed; the order
    stays. Among the subsequences that are {words}, find
    {'the longest and return its length' if result == 'length' else 'the one with the greatest sum and return that sum'}
    (a single value is such a subsequence). For an empty list return 0. The list may hold 60 values: trying all subsequences takes too
    long."""
    gain = "1" if result == "length" else "values[i]"
    source = """
def $name(values):
    best = []
    for i in range(len(values)):
        longest = «0¦1»
        for j in range(i):
            if «$test¦$wrong»:
                longest = max(longest, best[j])
        best.append(longest + $gain)
    return «max(best)¦best[-1]» if best else 0
"""
    cases = [ints(rng, rng.randint(8, 12), 1, 24) for _ in range(10)] + [ints(rng, 60, 1, 90) for _ in range(2)]
    cases += [[], [7], [3, 3, 3], list(range(1, 50)), list(range(50, 0, -1)), [2, 4, 8, 3, 9, 27, 81, 1]]
    return task(rng.choice(["best_subsequence", "longest_chain", "chain_score"]), "values", text, source, [[c] for c in cases],
                test=test, wrong=wrong, gain=gain)


def coin_ways(rng: random.Random) -> Task:
    """Paying an amount: ways, fewest coins, each coin once."""
    mode = rng.choice(["ways", "fewest", "once"])
    wanted = {
        "ways": "in how many ways it can be paid exactly (the order of coins does not count, each kind may be used any number of times)",
        "fewest": "the smallest number of coins that pay it exactly, each kind used any number of times, or -1 if that is impossible",
        "once": "in how many ways it can be paid exactly when each kind may be used at most once (order does not count)",
    }[mode]
    fee = rng.randint(0, 3)
    text = f"""`coins` is a list of distinct positive coin values, `amount` an integer that is at least 0. A handling fee of {fee} is
    added to the amount;
    for the sum, return {wanted}. Amounts may reach 400, so counting one by one takes too long."""
    if mode == "fewest":
        source = """
def $name(coins, amount):
    total = amount «+ $fee¦- 1»
    best = [0] + [None] * total
    for part in range(1, total + 1):
        for coin in coins:
            if coin «<=¦<» part and best[part - coin] is not None:
                if best[part] is None or best[part - coin] + 1 «<¦>» best[part]:
                    best[part] = best[part - coin] + 1
    return -1 if best[-1] is None else best[-1]
"""
    else:
        walk = "range(coin, total + 1)" if mode == "ways" else "range(total, coin - 1, -1)"
        other = "range(total, coin - 1, -1)" if mode == "ways" else "range(coin, total + 1)"
        source = """
def $name(coins, amount):
    total = amount + $fee
    ways = [1] + [0] * total
    for coin in coins:
        for part in «$walk¦$other»:
            ways[part] += ways[part - coin]«¦ + (part == coin)»
    return ways[total]
""".replace("$walk", walk).replace("$other", other)
    cases = [[rng.sample(range(1, 16), rng.randint(3, 5)), rng.randint(6, 40)] for _ in range(12)]
    cases += [[[1, 2, 5], 400 - fee], [[7, 11, 13], 300], [[5], 0], [[5], 7], [[], 4], [[2, 3, 4, 5, 6, 7, 8, 9], 20]]
    return task(rng.choice(["pay", "settle", "change_for"]), "coins, amount", text, source, cases, fee=fee)


def knapsack(rng: random.Random) -> Task:
    """Best load, with or without a limit on the number of things."""
    limit = rng.choice([None, 2, 3])
    text = f"""`things` is a list of [weight, value] (positive integers). Choose things so that their weights sum to at most
    `capacity` and return the
    greatest total value{'' if limit is None else f', with at most {limit + 1} things chosen'}. Each entry of the list may be chosen
    at most once.
    There may be 40 things and a capacity of 200, so trying all selections takes too long."""
    if limit is None:
        source = """
def $name(things, capacity):
    best = [0] * (capacity + 1)
    for weight, value in things:
        for room in «range(capacity, weight - 1, -1)¦range(weight, capacity + 1)»:
            best[room] = max(best[room], best[room - weight] + value)
    return «best[capacity]¦best[capacity - 1] if capacity else 0»
"""
    else:
        source = """
def $name(things, capacity):
    most = «$most¦$most - 1»
    best = [[0] * (capacity + 1) for _ in range(most + 1)]
    for weight, value in things:
        for used in «range(most, 0, -1)¦range(1, most + 1)»:
            for room in range(capacity, weight - 1, -1):
                best[used][room] = max(best[used][room], best[used - 1][room - weight] + value)
    return best[most][capacity]
"""

    def things(n: int, heavy: int) -> list[list[int]]:
        return [[rng.randint(1, heavy), rng.randint(1, 30)] for _ in range(n)]
    cases = [[things(rng.randint(5, 8), 9), rng.randint(8, 20)] for _ in range(12)]
    cases += [[things(40, 40), 200], [[], 5], [[[3, 9]], 2], [[[3, 9]], 3], [[[1, 5]], 4], [[[2, 3], [3, 4], [4, 5], [5, 6]], 5],
              [things(4, 5), 0]]
    return task(rng.choice(["best_load", "pack", "fill_crate"]), "things, capacity", text, source, cases,
                most=0 if limit is None else limit + 1)


def eliminate(rng: random.Random) -> Task:
    """Counting out in a circle."""
    step = rng.randint(2, 6)
    keep = rng.randint(1, 2)
    order = rng.choice(["out", "left"])
    text = f"""The people 1, 2, …, n stand in a circle. Counting starts at person 1, and every {step}-th person (the count includes
    the person it starts
    with) leaves; counting goes on with the next person, until at most {keep} remain. Return
    {'the numbers of those who left, in the order of leaving' if order == 'out' else 'the numbers of those who remain, in ascending order'},
    as a list. n is at least 0."""
    source = """
def $name(n):
    circle = list(range(1, n + 1))
    gone = []
    at = 0
    while len(circle) > $keep:
        at = (at + «$step - 1¦$step») % len(circle)
        gone.append(circle.pop(at))
    return $result
"""
    cases = [[n] for n in rng.sample(range(5, 30), 8)] + [[n] for n in (0, 1, 2, 3, 4, 41)]
    return task(rng.choice(["circle_game", "count_out", "last_ones"]), "n", text, source, cases, step=step, keep=keep,
                result="gone" if order == "out" else "circle")


def cache_hits(rng: random.Random) -> Task:
    """A cache that throws out by use or by age."""
    policy = rng.choice(["lru", "fifo"])
    size = rng.randint(2, 4)
    rule = "was used (asked for) longest ago" if policy == "lru" else "has been in the cache longest, however often it was asked for"
    text = f"""A cache holds at most {size} keys. `keys` are asked for one after another: a key in the cache is a hit; any other is a
    miss and
    is put in, and if that makes more than {size}, the one that {rule} is thrown out first. Return [number of hits, the keys in the
    cache at the
    end in ascending order]."""
    touch = "            held.remove(key)\n            held.append(key)\n" if policy == "lru" else ""
    source = """
def $name(keys):
    held, hits = [], 0
    for key in keys:
        if key in held:
            hits += 1
$touch        else:
            if len(held) «== $size¦> $size»:
                held.pop(«0¦-1»)
            held.append(key)
    return [hits, sorted(held)]
"""
    cases = [ints(rng, rng.randint(12, 20), 1, 6) for _ in range(12)] + [[], [1], [1, 1, 1], [1, 2, 3, 4, 5, 6],
            [1, 2, 1, 3, 1, 4, 1, 5, 2, 1]]
    return task(rng.choice(["cache_report", "simulate_cache", "count_hits"]), "keys", text, source, [[c] for c in cases], size=size,
                touch=touch)


TEMPLATES = (
    Template("longest_run", 1, longest_run), Template("count_pairs", 1, count_pairs), Template("largest_drop", 1, largest_drop),
    Template("first_position", 2, first_position), Template("merge_intervals", 2, merge_intervals),
    Template("top_by_count", 1, top_by_count),
    Template("window_extremes", 1, window_extremes), Template("most_meetings", 2, most_meetings),
    Template("longest_subsequence", 3, longest_subsequence), Template("coin_ways", 3, coin_ways), Template("knapsack", 3, knapsack),
    Template("eliminate", 2, eliminate), Template("cache_hits", 2, cache_hits),
)
