"""The questions of the SQL kind: what is asked, and the right query with marks where people go wrong («right¦wrong», see task.py).

Placeholders: $p people, $e events, $l lines, $g goods (tables); $each_p, $each_e words for one; $status, $other, $city, $month, $k, $n
drawn values. Every question ends in a complete order.
"""
from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Question:
    """name: for messages.  level: 1..3.  text: what is asked.  query: the answer, with marks."""

    name: str
    level: int
    text: str
    query: str


QUESTIONS = (
    Question("events_per_city", 1, """For every city with at least one $each_e of status '$status': the city and the number of such
    ${each_e}s. Columns: city, number. Order: number from
    high to low, then city.""", """
SELECT p.city, COUNT(*) AS number
FROM $p p JOIN $e e ON e.person = p.id
WHERE e.status «=¦<>» '$status'
GROUP BY p.city
ORDER BY number «DESC¦ASC», p.city
"""),
    Question("people_without", 1, """Every $each_p who has no $each_e of status '$status' (having none at all counts too). Columns:
    name, city. Order: name.""", """
SELECT name, city
FROM $p
WHERE id NOT IN (SELECT person FROM $e« WHERE status = '$status'¦»)
ORDER BY «name¦city, name»
"""),
    Question("quantity_per_category", 1, """For every category that occurs in $l: the category, the total quantity, and the number of
    different goods of it that occur in $l. Leave out
    categories with a total quantity below 5. Columns: category, quantity, goods. Order: quantity from high to low, then category.""", """
SELECT g.category, SUM(l.quantity) AS quantity, COUNT(«DISTINCT l.good¦l.good») AS goods
FROM $l l JOIN $g g ON g.id = l.good
GROUP BY g.category
HAVING SUM(«l.quantity¦1») >= 5
ORDER BY quantity DESC, g.category
"""),
    Question("events_in_month", 1, """The ${each_e}s of $month: day, name of the $each_p, status. Leave out status '$other'. Columns:
    day, name, status, id of the $each_e. Order: day, then id of
    the $each_e. At most 6 rows, the first in that order.""", """
SELECT e.day, p.name, e.status, e.id
FROM $e e JOIN $p p ON p.id = e.person
WHERE e.day LIKE '$month-%'« AND e.status <> '$other'¦»
ORDER BY «e.day, e.id¦e.id»
LIMIT «6¦5»
"""),
    Question("first_and_last", 1, """For every $each_p with at least $k ${each_e}s: name, day of the first and day of the last
    $each_e. Columns: name, first, last. Order: first, then name.""", """
SELECT p.name, «MIN¦MAX»(e.day) AS first, MAX(e.day) AS last
FROM $p p JOIN $e e ON e.person = p.id
GROUP BY p.id
HAVING COUNT(*) «>=¦>» $k
ORDER BY first, p.name
"""),
    Question("unused_goods", 1, """The goods that occur in no $each_e of a $each_p from $city. Columns: name, category. Order:
    category, then name.""", """
SELECT g.name, g.category
FROM $g g
WHERE g.id NOT IN (
    SELECT l.good FROM $l l JOIN $e e ON e.id = l.event JOIN $p p ON p.id = e.person« WHERE p.city = '$city'¦»)
ORDER BY «g.category, g.name¦g.name»
"""),
    Question("spending", 2, """For every $each_p, also those without any ${each_e}s: name and the total amount over all their
    ${each_e}s except those of status '$other' (0 if there is nothing). Columns: name, amount. Order:
    amount from high to low, then name.""", """
SELECT p.name, COALESCE(SUM(l.quantity * l.cents), «0¦NULL») AS amount
FROM $p p
LEFT JOIN $e e ON e.person = p.id« AND e.status <> '$other'¦»
«LEFT JOIN¦JOIN» $l l ON l.event = e.id
GROUP BY p.id
ORDER BY amount DESC, p.name
"""),
    Question("months", 2, """For every month (YYYY-MM) with at least $k ${each_e}s: the month, the number of ${each_e}s, and the total
    amount of their lines (0 if there are none). Columns: month, number, amount.
    Order: month.""", """
SELECT substr(e.day, 1, 7) AS month, COUNT(«DISTINCT e.id¦e.id») AS number, COALESCE(SUM(l.quantity * l.cents), 0) AS amount
FROM $e e «LEFT JOIN¦JOIN» $l l ON l.event = e.id
GROUP BY month
HAVING COUNT(DISTINCT e.id) >= $k
ORDER BY month
"""),
    Question("latest_status", 2, """Every $each_p whose latest $each_e (by day, and on the same day by id) has the status '$status'.
    Columns: name, day of that $each_e. Order: day from late to early,
    then name.""", """
SELECT p.name, e.day
FROM $p p JOIN $e e ON e.person = p.id
WHERE e.status = '$status'
  AND NOT EXISTS (SELECT 1 FROM $e later WHERE later.person = e.person«¦ AND later.status = '$status'»
                  AND (later.day > e.day OR (later.day = e.day AND later.id «>¦<» e.id)))
ORDER BY e.day «DESC¦ASC», p.name
"""),
    Question("above_average", 2, """The ${each_e}s whose amount is greater than the average amount of all ${each_e}s, where ${each_e}s
    without lines count as 0 in the average. Columns: id, amount. Order: amount from high to low,
    then id.""", """
WITH amounts AS (
    SELECT e.id, COALESCE(SUM(l.quantity * l.cents), 0) AS amount
    FROM $e e «LEFT JOIN¦JOIN» $l l ON l.event = e.id
    GROUP BY e.id)
SELECT id, amount
FROM amounts
WHERE amount * (SELECT COUNT(*) FROM amounts) > (SELECT SUM(amount) FROM amounts)
ORDER BY amount DESC, id«¦ DESC»
"""),
    Question("cities_and_status", 2, """For every city that occurs in $p: the number of ${each_e}s of status '$status', the number of
    ${each_e}s of status '$other', and the number of ${each_p}s without any $each_e. Columns: city,
    and these three. Order: city.""", """
SELECT p.city,
       COUNT(CASE WHEN e.status = '$status' THEN 1 END),
       COUNT(CASE WHEN e.status = '$other' THEN 1 END),
       COUNT(CASE WHEN e.id IS NULL THEN 1 END)
FROM $p p «LEFT JOIN¦JOIN» $e e ON e.person = p.id«¦ AND e.status = '$status'»
GROUP BY p.city
ORDER BY p.city
"""),
    Question("only_category", 2, """The ${each_e}s that have at least one line and whose lines are all for goods of one and the same
    category. Columns: id of the $each_e, that category, total amount. Order: amount
    from high to low, then id.""", """
SELECT l.event, MIN(g.category), SUM(l.quantity * l.cents) AS amount
FROM $l l JOIN $g g ON g.id = l.good
GROUP BY l.event
HAVING COUNT(DISTINCT «g.category¦g.id») = 1
ORDER BY amount DESC, l.event«¦ DESC»
"""),
    Question("two_statuses", 2, """Every $each_p who has at least one $each_e of status '$status' and at least one of status '$other'.
    Columns: name, number of all their ${each_e}s of any status. Order: number from high
    to low, then name.""", """
SELECT p.name, COUNT(*) AS number
FROM $p p JOIN $e e ON e.person = p.id
GROUP BY p.id
HAVING SUM(e.status = '$status') > 0 «AND¦OR» SUM(e.status = '$other') > 0
ORDER BY number «DESC¦ASC», p.name
"""),
    Question("running_total", 3, """For every $each_e that has lines: the name of the $each_p, the day, the amount of the $each_e, and
    the running total: the sum of the amounts of that person's ${each_e}s up to and including this
    one, in order of day and, on the same day, id. Columns: name, day, amount, running. Order: name, day, id of the $each_e.""", """
WITH amounts AS (
    SELECT e.id, e.person, e.day, SUM(l.quantity * l.cents) AS amount
    FROM $e e JOIN $l l ON l.event = e.id
    GROUP BY e.id)
SELECT p.name, a.day, a.amount,
       SUM(a.amount) OVER («PARTITION BY a.person ¦»ORDER BY a.day«, a.id¦») AS running
FROM amounts a JOIN $p p ON p.id = a.person
ORDER BY p.name, a.day, a.id
"""),
    Question("best_of_city", 3, """In every city, the ${each_p}s with the greatest total amount over all their ${each_e}s (several if
    they tie; people whose total is 0 or who have no lines are left out). Columns: city, name,
    amount. Order: city, then name.""", """
WITH totals AS (
    SELECT p.city, p.name, SUM(l.quantity * l.cents) AS amount
    FROM $p p JOIN $e e ON e.person = p.id JOIN $l l ON l.event = e.id
    GROUP BY p.id),
ranked AS (SELECT *, RANK() OVER («PARTITION BY city ¦»ORDER BY amount «DESC¦ASC») AS place FROM totals)
SELECT city, name, amount
FROM ranked
WHERE place = 1
ORDER BY city, name
"""),
    Question("together", 3, """Pairs of different goods that occur together in at least $n of the same ${each_e}s. Columns: name of
    the one (alphabetically first), name of the other, number of ${each_e}s. Order: number from high to low,
    then both names.""", """
SELECT a.name, b.name, COUNT(DISTINCT x.event) AS number
FROM $l x JOIN $l y ON y.event = x.event
JOIN $g a ON a.id = x.good JOIN $g b ON b.id = y.good
WHERE a.name «<¦<>» b.name
GROUP BY a.id, b.id
HAVING number «>= $n¦> $n»
ORDER BY number DESC, a.name, b.name
"""),
    Question("longest_gap", 3, """For every $each_p with ${each_e}s on at least two different days: the longest time, in days, between
    two consecutive days on which they had ${each_e}s. Columns: name, days. Order: days from
    high to low, then name.""", """
WITH days AS (SELECT DISTINCT person, day FROM $e),
gaps AS (
    SELECT person, julianday(day) - julianday(LAG(day) OVER («PARTITION BY person ¦»ORDER BY day)) AS gap
    FROM days)
SELECT p.name, CAST(«MAX¦MIN»(gap) AS INTEGER) AS days
FROM gaps JOIN $p p ON p.id = gaps.person
WHERE gap IS NOT NULL
GROUP BY p.id
ORDER BY days DESC, p.name
"""),
    Question("shares", 3, """For every category that occurs in $l: its share of the total amount of all lines, in whole percent,
    rounded down, and the rank of its amount (1 for the greatest; equal amounts share
    a rank and the next rank is skipped). Columns: category, percent, rank. Order: rank, then category.""", """
WITH sums AS (
    SELECT g.category, SUM(l.«quantity * l.cents¦cents») AS amount
    FROM $l l JOIN $g g ON g.id = l.good
    GROUP BY g.category)
SELECT category, amount * 100 / (SELECT SUM(amount) FROM sums), RANK() OVER (ORDER BY amount «DESC¦ASC») AS place
FROM sums
ORDER BY place, category
"""),
    Question("favourite_category", 3, """Every $each_p, in whose ${each_e}s at least two different categories of goods occur: the
    name, the category on which they spent the greatest amount (of equal ones the alphabetically
    first), and that amount. Columns: name, category, amount. Order: name.""", """
WITH sums AS (
    SELECT e.person, g.category, SUM(l.quantity * l.cents) AS amount
    FROM $e e JOIN $l l ON l.event = e.id JOIN $g g ON g.id = l.good
    GROUP BY e.person, g.category),
ranked AS (
    SELECT *, ROW_NUMBER() OVER (PARTITION BY person ORDER BY amount «DESC¦ASC», category) AS place,
           COUNT(*) OVER (PARTITION BY person) AS categories
    FROM sums)
SELECT p.name, r.category, r.amount
FROM ranked r JOIN $p p ON p.id = r.person
WHERE r.place = 1 AND r.categories >= «2¦1»
ORDER BY p.name
"""),
    Question("quiet_days", 3, """The longest stretch without any $each_e: consider the days on which there were ${each_e}s of status
    '$status', in order. For each of them but the last, count the days until the next one.
    Columns: day, next day, number of days between them (next minus day). Order: number from high to low, then day. At most $k rows,
    the first in that order.""", """
WITH days AS (SELECT DISTINCT day FROM $e« WHERE status = '$status'¦»),
steps AS (SELECT day, LEAD(day) OVER (ORDER BY day) AS following FROM days)
SELECT day, following, CAST(julianday(following) - julianday(day) AS INTEGER) AS gap
FROM steps
WHERE following IS NOT NULL
ORDER BY gap DESC, day«¦ DESC»
LIMIT $k
"""),
    Question("streak", 3, """For every $each_p with at least 2 ${each_e}s: the greatest number of ${each_e}s in a row (in order of
    day, and on the same day of id) that all have the status '$status'; 0 if none has. Columns: name, length.
    Order: length from high to low, then name.""", """
WITH numbered AS (
    SELECT person, status, ROW_NUMBER() OVER (PARTITION BY person ORDER BY day«, id¦») AS place,
           ROW_NUMBER() OVER (PARTITION BY person, status ORDER BY day«, id¦, id DESC») AS same
    FROM $e),
runs AS (SELECT person, status, COUNT(*) AS length FROM numbered GROUP BY person, status, place - same)
SELECT p.name, COALESCE(MAX(CASE WHEN r.status «=¦<>» '$status' THEN r.length END), 0) AS length
FROM runs r JOIN $p p ON p.id = r.person
GROUP BY p.id
HAVING SUM(r.length) >= 2
ORDER BY length DESC, p.name
"""),
)
