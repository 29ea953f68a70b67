"""Tasks on grids, graphs and whole numbers: paths, regions, orders, walks, digits. See task.py for how a task is written."""
from __future__ import annotations

import random

from fathom.eval.execution.task import Task, Template, ints, task

FOUR = "((0, 1), (1, 0), (0, -1), (-1, 0))"
EIGHT = "((0, 1), (1, 0), (0, -1), (-1, 0), (1, 1), (1, -1), (-1, 1), (-1, -1))"


def picture(rng: random.Random, rows: int, columns: int, wall: float = 0.35) -> list[str]:
    """Rows of '.' and '#'."""
    return ["".join("#" if rng.random() < wall else "." for _ in range(columns)) for _ in range(rows)]


def regions(rng: random.Random) -> Task:
    """Connected regions of a picture."""
    eight = rng.choice([True, False])
    mark = rng.choice("#.")
    result = rng.choice(["count", "largest", "inner"])
    wanted = {"count": "how many regions there are", "largest": "the number of cells of the largest region (0 if there is none)",
              "inner": "how many regions do not touch the border (no cell of theirs is in the first or last row or column)"}[result]
    text = f"""`rows` is a list of strings of equal length made of '.' and '#'. A region is a set of connected '{mark}' cells; cells
    are connected
    {'horizontally, vertically and diagonally' if eight else 'horizontally and vertically, not diagonally'}. Return {wanted}. `rows`
    may be empty."""
    source = """
def $name(rows):
    seen = set()
    sizes, inner = [], 0
    for r in range(len(rows)):
        for c in range(len(rows[r])):
            if rows[r][c] != "$mark" or (r, c) in seen:
                continue
            seen.add((r, c))
            region, edge = [(r, c)], False
            for y, x in region:
                edge = edge or y in (0, len(rows) - 1) or x in $sides
                for dy, dx in «$near¦$other»:
                    v, u = y + dy, x + dx
                    if 0 <= v < len(rows) and $first u < len(rows[0]) and rows[v][u] == "$mark" and (v, u) not in seen:
                        seen.add((v, u))
                        region.append((v, u))
            sizes.append(len(region))
            inner += not edge
    return $result
"""
    cases = [picture(rng, rng.randint(5, 7), rng.randint(5, 8), 0.4) for _ in range(14)]
    cases += [[], ["#"], ["."], ["....", "....", "...."], ["####", "####"], ["#.#.#"], ["#.", ".#"], [".....", ".#.#.", "....."],
              ["#####", "#.#.#", "#####"]]
    return task(rng.choice(["regions", "count_patches", "islands"]), "rows", text, source, [[c] for c in cases], mark=mark,
                near=EIGHT if eight else FOUR, other=FOUR if eight else EIGHT,
                sides="«(0, len(rows[0]) - 1)¦(len(rows[0]) - 1,)»" if result == "inner" else "(0, len(rows[0]) - 1)",
                first="0 <=" if result == "inner" else "0 «<=¦<»",
                result={"count": "«len(sizes)¦len(seen)»", "largest": "max(sizes, default=«0¦1»)", "inner": "inner"}[result])


def shortest_path(rng: random.Random) -> Task:
    """Breadth-first search on a grid, maybe a torus."""
    eight = rng.choice([True, False])
    torus = rng.choice([True, False])
    text = f"""`rows` is a list of strings of equal length: '#' is a wall, '.' is free. Starting in the top left cell, how many steps
    does the shortest way to
    the bottom right cell take? A step goes to a free cell next to the current one
    {'in one of eight directions (diagonals too)' if eight else 'up, down, left or right'}.
    {'The grid wraps: leaving on one side, one comes back in on the opposite side. ' if torus else ''}Return -1 if there is no way, or
    if the first or the last cell
    is a wall. There is at least one cell; in a grid of one free cell the answer is 0."""
    source = """
def $name(rows):
    height, width = len(rows), len(rows[0])
    if rows[0][0] == "#" or rows[-1][-1] == "#":
        return «-1¦0»
    steps = {(0, 0): «0¦1»}
    queue = [(0, 0)]
    for y, x in queue:
        for dy, dx in «$near¦$other»:
            v, u = $move
            if ${inside}rows[v][u] == "." and (v, u) not in steps:
                steps[v, u] = steps[y, x] + 1
                queue.append((v, u))
    return steps.get((height - 1, width - 1), «-1¦len(queue)»)
"""
    cases = []
    for _ in range(14):
        grid = picture(rng, rng.randint(4, 7), rng.randint(4, 7), 0.28)
        grid[0], grid[-1] = "." + grid[0][1:], grid[-1][:-1] + "."
        cases.append(grid)
    cases += [["."], ["#"], ["..", ".."], ["#.", ".."], ["..", ".#"], [".#", "#."], ["....", "###.", "....", ".###", "...."],
              [".#.", ".#.", "##."],
              [".....", ".....", "....."]]
    return task(rng.choice(["shortest_way", "fewest_steps", "path_length"]), "rows", text, source, [[c] for c in cases],
                near=EIGHT if eight else FOUR, other=FOUR if eight else EIGHT,
                move="(y + dy) % height, (x + dx) % width" if torus else "y + dy, x + dx",
                inside="" if torus else "0 <= v < height and 0 <= u < width and ")


def life(rng: random.Random) -> Task:
    """A cellular automaton with drawn rules."""
    birth = sorted(rng.sample(range(2, 7), rng.randint(1, 2)))
    stay = sorted(rng.sample(range(1, 7), rng.randint(1, 3)))
    torus = rng.choice([True, False])
    text = f"""`rows` is a list of strings of equal length: '#' is a living cell, '.' a dead one. In each generation all cells change
    at once: a dead cell comes to
    life if the number of its living neighbours (of eight) is in {birth}; a living cell stays alive if that number is in {stay},
    otherwise it dies.
    {'The grid wraps round at all sides.' if torus else 'Outside the grid everything is dead.'} Return the grid after `n` generations
    (n >= 0), in the same form.
    The grid has at least 3 rows and 3 columns."""
    source = """
def $name(rows, n):
    height, width = len(rows), len(rows[0])
    for _ in range(n):
        new = []
        for y in range(height):
            line = ""
            for x in range(width):
                near = 0
                for dy in (-1, 0, 1):
                    for dx in (-1, 0, 1):
                        v, u = $move
                        if ${inside}rows[v][u] == "#"«¦ and dy != dx»:
                            near += 1
                alive = rows[y][x] == "#"
                near -= «alive¦0»
                line += "#" if near in ($stay if alive else «$birth¦$stay») else "."
            new.append(line)
        rows = new
    return rows
"""
    cases = [[picture(rng, rng.randint(4, 6), rng.randint(4, 6), 0.45), rng.randint(1, 3)] for _ in range(12)]
    cases += [[["...", ".#.", "..."], 1], [["###", "###", "###"], 1], [["...", "###", "..."], 2], [["#.#", "...", "#.#"], 0],
              [["#..#", "....", "....", "#..#"], 1],
              [["....", ".##.", ".##.", "...."], 4]]
    return task(rng.choice(["evolve", "generations", "grow"]), "rows, n", text, source, cases, birth=birth, stay=stay,
                move="(y + dy) % height, (x + dx) % width" if torus else "y + dy, x + dx",
                inside="" if torus else "0 <= v < height and 0 <= u < width and ")


def spiral(rng: random.Random) -> Task:
    """A matrix read in a spiral."""
    clockwise = rng.choice([True, False])
    inward = rng.choice([True, False])
    every = rng.choice([1, 1, 2, 3])
    text = f"""Walk through the matrix `rows` (lists of equal length) in a spiral that starts at the top left corner, first goes
    {'right' if clockwise else 'down'} along the edge and turns {'clockwise' if clockwise else 'counter-clockwise'} inward, until
    every value was visited once. Return the
    values in {'that order' if inward else 'the reverse of that order (from the middle outward)'} as a
    list{'' if every == 1 else f', keeping only every {every}th: the first, then one after {every - 1} skipped, and so on'}.
    The matrix may be empty."""
    source = """
def $name(rows):
    grid = $first
    found = []
    while grid:
        found += «grid.pop(0)¦grid.pop(0)[:-1]»
        grid = [list(line) for line in zip(*grid)][::«-1¦1»]
$turn    return found$every
"""
    def matrix(h: int, w: int) -> list[list[int]]:
        return [ints(rng, w, 1, 99) for _ in range(h)]
    cases = [matrix(rng.randint(2, 5), rng.randint(2, 5)) for _ in range(10)]
    cases += [[], [[7]], matrix(1, 5), matrix(5, 1), matrix(2, 2), matrix(3, 3), matrix(4, 6)]
    return task(rng.choice(["spiral", "unwind", "coil"]), "rows", text, source, [[c] for c in cases],
                first="[list(line) for line in rows]" if clockwise else "[list(line) for line in zip(*rows)]",
                turn="" if inward else "    «found.reverse()¦found.sort()»\n",
                every="" if every == 1 else f"[::{every}]")


def build_order(rng: random.Random) -> Task:
    """Topological order, smallest or largest first."""
    least = rng.choice([True, False])
    text = f"""`needs` is a list of pairs [a, b], each saying that job a can only be done after job b. The jobs are 0 … n - 1. Return
    an order of all
    jobs that respects every pair: at each place, of the jobs that could be done now, the one with the
    {'smallest' if least else 'largest'} number.
    If there is no such order (the pairs form a cycle) return an empty list. Pairs may be repeated."""
    source = """
def $name(n, needs):
    waiting = {job: set() for job in range(n)}
    for a, b in needs:
        «waiting[a].add(b)¦waiting[b].add(a)»
    order = []
    while waiting:
        ready = [job for job in waiting if not waiting[job]]
        if not ready:
            return «[]¦order»
        job = «$pick¦$worse»(ready)
        order.append(job)
        del waiting[job]
        for others in waiting.values():
            others.discard(job)
    return order
"""
    cases = []
    for _ in range(12):
        n = rng.randint(5, 8)
        rank = rng.sample(range(n), n)
        pairs = [sorted(rng.sample(range(n), 2), reverse=True) for _ in range(rng.randint(4, 9))]
        cases.append([n, [[rank[a], rank[b]] for a, b in pairs] + ([[rank[0], rank[n - 1]],
                                                                    [rank[n - 1], rank[0]]] if rng.random() < 0.15 else [])])
    cases += [[0, []], [1, []], [4, []], [2, [[0, 1], [1, 0]]], [3, [[0, 0]]], [4, [[0, 3], [0, 3], [3, 1]]],
              [5, [[4, 0], [3, 1], [2, 4], [0, 3]]]]
    return task(rng.choice(["build_order", "schedule", "plan_jobs"]), "n, needs", text, source, cases, pick="min" if least else "max",
                worse="max" if least else "min")


def distances(rng: random.Random) -> Task:
    """Cheapest ways from one place to all."""
    directed = rng.choice([True, False])
    toll = rng.randint(0, 3)
    missing = rng.choice([-1, None])
    text = f"""`roads` is a list of [a, b, length] (positive lengths) between places 0 … n - 1;
    {'each can be used from a to b only' if directed else 'each can be used both ways'}.
    {f'Every place passed on the way, except the first and the last, costs {toll} more. ' if toll else ''}Return a list with the
    smallest total cost from place `start` to every place, in
    order (0 for `start` itself), and {missing} for places that cannot be reached. There may be 200 places."""
    source = """
def $name(n, roads, start):
    near = [[] for _ in range(n)]
    for a, b, length in roads:
        near[a].append((b, length))
$back    best = [None] * n
    best[start] = 0
    todo = {start}
    while todo:
        place = min(todo, key=lambda p: best[p])
        todo.remove(place)
        for other, length in near[place]:
            cost = best[place] «+ length¦+ 1» + ($toll if place != start else 0)
            if best[other] is None or «cost < best[other]¦False»:
                best[other] = cost
                todo.add(other)
    return [$final for b in best]
"""
    back = "" if directed else "        «near[b].append((a, length))¦near[b].append((a, length + 1))»\n"

    def roads(n: int, count: int) -> list[list[int]]:
        return [[*rng.sample(range(n), 2), rng.randint(1, 12)] for _ in range(count)]
    cases = []
    for _ in range(12):
        n = rng.randint(5, 8)
        cases.append([n, roads(n, rng.randint(n, 2 * n)), rng.randrange(n)])
    cases += [[1, [], 0], [3, [], 1], [3, [[0, 1, 5], [0, 1, 2]], 0], [4, [[0, 1, 1], [1, 2, 1], [2, 3, 1], [0, 3, 9]], 0],
              [200, roads(200, 500), 7]]
    return task(rng.choice(["distances", "travel_costs", "reach"]), "n, roads, start", text, source.replace("$back", back), cases,
                toll=toll,
                final="b" if missing is None else "-1 if b is None else b")


def robot(rng: random.Random) -> Task:
    """A robot on a small board."""
    left, right, go = rng.choice(["LRF", "lrg", "<>^"])
    wall = rng.choice(["stay", "wrap"])
    size = rng.randint(4, 7)
    edge = {"stay": "A move that would leave the board does nothing.",
            "wrap": "Leaving the board, it comes back in on the opposite side."}[wall]
    text = f"""A robot stands at x = 0, y = 0 of a square board of {size} × {size} fields (0 … {size - 1} in both directions) and
    looks toward growing y. `moves` is a
    string: {left} turns it left by 90 degrees, {right} turns it right, {go} moves it one field ahead (growing x is to the right of
    growing y).
    {edge} Return [x, y, the number of different fields it
    stood on, the start included]."""
    source = """
def $name(moves):
    x = y = 0
    dx, dy = 0, 1
    seen = «{(0, 0)}¦set()»
    for move in moves:
        if move == "$left":
            dx, dy = «-dy, dx¦dy, -dx»
        elif move == "$right":
            dx, dy = dy, «-dx¦dx»
        else:
$go            seen.add((x, y))
    return [x, y, len(seen)]
"""
    step = ("            if 0 <= x + dx «<¦<=» $size and 0 <= y + dy < $size:\n                x, y = x + dx, y + dy\n"
            if wall == "stay" else
            "            x, y = (x + dx) % «$size¦($size + 1)», (y + dy) % $size\n")
    cases = ["".join(rng.choice([left, right, go, go, go]) for _ in range(rng.randint(12, 26))) for _ in range(14)]
    cases += ["", go, go * 9, right + go * 9, left + go, (go + right) * 4, left * 4, right + go * 3 + left + go * 3, left, go + left]
    return task(rng.choice(["walk", "drive", "follow"]), "moves", text, source.replace("$go", step), [[c] for c in cases], left=left,
                right=right, size=size)


def special_numbers(rng: random.Random) -> Task:
    """Counting or summing numbers whose digits or divisors have a property."""
    k = rng.randint(3, 9)
    words, test, wrong = rng.choice([
        (f"whose digit sum is divisible by {k}", f"sum(digits) % {k} == 0", f"sum(digits) % {k} == 1"),
        (f"that contain the digit {k} and are not divisible by {k}", f"{k} in digits and n % {k} != 0", f"{k} in digits or n % {k} != 0"),
        ("whose digits never decrease from left to right", "digits == sorted(digits)", "digits == sorted(digits, reverse=True)"),
        ("whose digits are all different", "len(set(digits)) == len(digits)", "len(set(digits)) >= len(digits) - 1"),
        (f"that have an even number of divisors among 1 … {k}", f"sum(n % d == 0 for d in range(1, {k + 1})) % 2 == 0",
         f"sum(n % d == 0 for d in range(1, {k})) % 2 == 0"),
    ])
    base = rng.choice([10, 10, 10, 8, 7]) if "digit" in words and "contain" not in words else 10
    result = rng.choice(["count", "sum"])
    text = f"""Return {'how many integers there are' if result == 'count' else 'the sum of the integers'} from `low` to `high`, both
    included, {words}
    {'' if base == 10 else f'(digits of the number written in base {base})'}. 1 <= low; if low > high the answer is 0."""
    text = text.replace("\n    . 1", ". 1").replace("\n    (digits", " (digits")
    source = """
def $name(low, high):
    total = 0
    for n in range(low«¦ + 1», high «+ 1¦»):
        digits = []
        rest = n
        while rest:
            digits.insert(0, rest % $base)
            rest //= $base
        if «$test¦$wrong»:
            total += $gain
    return total
"""
    cases = [[a, a + rng.randint(20, 160)] for a in ints(rng, 10, 1, 900)] + [[1, 1], [1, 9], [5, 4], [1, 100], [99, 101], [1000, 1003],
            [77, 78]]
    cases += [[k, k], [12 * k, 12 * k + 1], [1, 300]]
    return task(rng.choice(["special_numbers", "survey", "tally"]), "low, high", text, source, cases, base=base, test=test, wrong=wrong,
                gain="1" if result == "count" else "n")


def groups(rng: random.Random) -> Task:
    """Connected groups of people."""
    result = rng.choice(["sizes", "same", "extra"])
    wanted = {"sizes": "the sizes of all groups, largest first",
              "same": "a list with, for every person 0 … n - 1, the smallest number in that person's group",
              "extra": "how many of the links were superfluous: they joined two people who were in one group by the links before"}[result]
    text = f"""The people 0 … n - 1 are joined by `links`, a list of pairs [a, b] that hold both ways (a and b may be equal). A group
    is everyone who is connected, directly or
    through others; a person without links is a group alone. Return {wanted}."""
    source = """
def $name(n, links):
    leader = list(range(n))
    extra = 0
    for a, b in links:
        old, new = «max(leader[a], leader[b]), min(leader[a], leader[b])¦leader[a], leader[b]»
        if old == new:
            extra += 1
        leader = [«new if x == old else x¦new if i == old else x» for i, x in enumerate(leader)]
    return $result
"""
    if result != "same":
        source = source.replace("«max(leader[a], leader[b]), min(leader[a], leader[b])¦leader[a], leader[b]»", "leader[a], leader[b]")
    final = {"sizes": "sorted((leader.count(x) for x in set(leader)), reverse=«True¦False»)", "same": "leader", "extra": "extra"}[result]
    if result == "extra":
        source = source.replace("            extra += 1", "            extra += «1¦len(links)»")
    cases = []
    for _ in range(14):
        n = rng.randint(6, 11)
        cases.append([n, [[rng.randrange(n), rng.randrange(n)] for _ in range(rng.randint(4, n))]])
    cases += [[0, []], [1, []], [4, []], [2, [[0, 1]]], [3, [[2, 2]]], [4, [[3, 2], [2, 1], [1, 0]]],
              [6, [[5, 4], [3, 4], [0, 1], [1, 5]]], [3, [[0, 1], [1, 0], [0, 0]]]]
    return task(rng.choice(["groups", "circles_of_friends", "clusters"]), "n, links", text, source.replace("$result", final), cases)


TEMPLATES = (
    Template("regions", 2, regions), Template("shortest_path", 2, shortest_path), Template("life", 2, life), Template("spiral", 1, spiral),
    Template("build_order", 3, build_order), Template("distances", 3, distances), Template("robot", 1, robot),
    Template("special_numbers", 1, special_numbers), Template("groups", 2, groups),
)
