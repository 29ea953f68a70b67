// The usage page: what the key's account used, by day and key, from the service's ledger. Days are UTC's, as on the bill.

import * as charts from "./charts.js";
import { askKey } from "./dialogs.js";
import { byId, download, el, turnTheme } from "./dom.js";
import { count, money, nano, short } from "./figures.js";
import * as kept from "./kept.js";
import * as service from "./service.js";

const DAYS = [7, 30, 90, 365];
const MEASURES = {
  cost: { name: "Cost", title: "Cost by day", of: (row) => nano(row.cost), write: money },
  tokens: { name: "Tokens", title: "Tokens by day, input and output", of: (row) => row.prompt_cache_hit_tokens + row.prompt_cache_miss_tokens + row.completion_tokens, write: short },
  requests: { name: "Requests", title: "Requests by day", of: (row) => row.requests, write: short },
};
let days = 30, measure = "cost", found = null;

async function load() {
  try {
    const [usage, balance] = await Promise.all([service.usage(days), service.balance()]);
    found = { ...usage, balance };
    byId("said").replaceChildren();
    show();
  } catch (error) {
    if (!(error instanceof service.Trouble)) throw error;
    if (error.kind === "key" && await askKey(service.balance, kept.key() ? error.text : "")) return load();
    byId("said").replaceChildren(el("div", { class: "trouble" }, error.text, el("button", { type: "button", onclick: load }, "Try again")));
  }
}

function show() {
  const rows = found.data, all = calendar(found.since, found.until);
  tiles(rows);
  const empty = !rows.length;
  for (const id of ["by-day", "by-key", "cache", "table"]) byId(id).hidden = empty;
  byId("csv").disabled = empty;
  if (empty) return byId("said").replaceChildren(el("p", { class: "none" }, `Nothing was used from ${found.since} to ${found.until}.`));
  byDay(rows, all);
  byKey(rows);
  cache(rows, all);
  table(rows);
}

const sum = (rows, of) => rows.reduce((total, row) => total + of(row), 0);
const hit = (row) => row.prompt_cache_hit_tokens, miss = (row) => row.prompt_cache_miss_tokens;
const width = (box) => Math.max(280, Math.round(box.clientWidth));

function calendar(since, until) {
  const all = [];
  for (let t = Date.parse(since); t <= Date.parse(until); t += 86_400_000) all.push(new Date(t).toISOString().slice(0, 10));
  return all;
}

function tiles(rows) {
  const input = sum(rows, hit) + sum(rows, miss), reasoning = sum(rows, (r) => r.reasoning_tokens), output = sum(rows, (r) => r.completion_tokens);
  const said = [
    ["Cost", money(sum(rows, MEASURES.cost.of)), `in ${days} days`],
    ["Requests", count(sum(rows, (r) => r.requests)), ""],
    ["Input tokens", short(input), input ? `${Math.round((100 * sum(rows, hit)) / input)} % cached` : ""],
    ["Output tokens", short(output), output ? `${Math.round((100 * reasoning) / output)} % thinking` : ""],
    ["Left", money(found.balance.left), found.balance.available ? "on the account" : "used up"],
  ];
  byId("tiles").replaceChildren(...said.map(([label, value, note]) => el("div", { class: "tile" }, el("span", {}, label), el("b", {}, value), el("small", {}, note || "\u00a0"))));
}

/** What each key is called: by its name, with the prefix where two share one. */
function names(rows) {
  const keys = new Map(rows.map((row) => [row.key, row.name]));
  const twice = (name) => [...keys.values()].filter((other) => other === name).length > 1;
  return new Map([...keys].map(([key, name]) => [key, twice(name) ? `${name} (${key})` : name]));
}

function byDay(rows, all) {
  const { title, of, write } = MEASURES[measure], at = new Map(all.map((day, d) => [day, d]));
  const series = [...names(rows)].map(([key, name]) => {
    const values = all.map(() => 0);
    for (const row of rows) if (row.key === key) values[at.get(row.day)] += of(row);
    return { name, values };
  });
  const kept = charts.largest(series, (s) => s.values.reduce((a, b) => a + b, 0));
  const box = byId("by-day"), plot = box.querySelector(".plot");
  box.querySelector("h2").textContent = title;
  plot.replaceChildren(charts.stacked(all, kept, { write, label: title, width: width(plot) }));
  box.querySelector(".legend").replaceChildren(...charts.legend(kept));
}

function byKey(rows) {
  const lines = [...names(rows)].map(([key, name]) => {
    const mine = rows.filter((row) => row.key === key);
    return [name, key, sum(mine, (r) => r.requests), sum(mine, (r) => hit(r) + miss(r) + r.completion_tokens), sum(mine, MEASURES.cost.of)];
  }).sort((a, b) => b[4] - a[4]);
  put("by-key", ["Key", "", "Requests", "Tokens", "Cost"], lines.map(([name, key, n, t, cost]) => [name, el("code", { class: "soft" }, key), count(n), short(t), money(cost)]), 2);
}

function cache(rows, all) {
  const values = all.map((day) => {
    const mine = rows.filter((row) => row.day === day), input = sum(mine, hit) + sum(mine, miss);
    return input ? sum(mine, hit) / input : null;
  });
  const plot = byId("cache").querySelector(".plot");
  plot.replaceChildren(charts.shares(all, values, { label: "Share of input tokens found in the cache, by day", width: width(plot) }));
}

function table(rows) {
  const known = names(rows);
  put("table", ["Day", "Key", "Model", "Requests", "Input", "Cached", "Output", "Thinking", "Cost"], [...rows].reverse().map((row) => [row.day, known.get(row.key), row.model,
    count(row.requests), count(hit(row) + miss(row)), count(hit(row)), count(row.completion_tokens), count(row.reasoning_tokens), money(nano(row.cost))]), 3);
}

function put(id, columns, rows, numeric) {
  const side = (i) => (i >= numeric ? { class: "num" } : {});
  byId(id).querySelector(".scroll").replaceChildren(el("table", {}, el("thead", {}, el("tr", {}, columns.map((c, i) => el("th", { scope: "col", ...side(i) }, c)))),
    el("tbody", {}, rows.map((row) => el("tr", {}, row.map((cell, i) => el("td", side(i), cell)))))));
}

function csv() {
  const columns = ["day", "key", "name", "model", "requests", "prompt_cache_hit_tokens", "prompt_cache_miss_tokens", "completion_tokens", "reasoning_tokens", "cost"];
  // a name that a spreadsheet would take for a formula gets a quote in front
  const cell = (value) => { const text = String(value).replace(/^[=+\-@\t]/, "'$&"); return /[",\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text; };
  const lines = [[...columns.slice(0, -1), "cost_usd"], ...found.data.map((row) => columns.map((c) => row[c]))];
  download(`usage-${found.since}-${found.until}.csv`, lines.map((line) => line.map(cell).join(",")).join("\n") + "\n", "text/csv");
}

function choice(id, values, label, current, chosen) {
  const buttons = values.map((value) => el("button", { type: "button", "aria-pressed": String(value === current()), onclick: () => {
    chosen(value);
    buttons.forEach((button, i) => button.setAttribute("aria-pressed", String(values[i] === value)));
  } }, label(value)));
  byId(id).append(...buttons);
}

choice("days", DAYS, (n) => (n === 365 ? "1 year" : `${n} days`), () => days, (n) => { days = n; load(); });
choice("measure", Object.keys(MEASURES), (name) => MEASURES[name].name, () => measure, (name) => { measure = name; if (found?.data.length) show(); });
byId("csv").addEventListener("click", csv);
byId("csv").disabled = true;
byId("theme").addEventListener("click", turnTheme);
addEventListener("resize", () => { if (found?.data.length) show(); });
load();
