// The page: reads the controls, asks Plan, draws. All text goes in as text nodes; nothing is fetched or stored.
"use strict";

(() => {
  const data = JSON.parse(document.getElementById("plan").textContent);
  const byId = (id) => document.getElementById(id);
  const COLOURS = ["--s1", "--s2", "--s3", "--s4", "--s5", "--s6"];
  const chips = Object.fromEntries(data.chips.map((c) => [c.id, c]));

  const scaled = (v, units, digits) => {
    const [unit, size] = units.find(([, s]) => Math.abs(v) >= s) || units[units.length - 1];
    return `${(v / size).toLocaleString("en", { maximumFractionDigits: digits, minimumFractionDigits: digits })} ${unit}`;
  };
  const bytes = (v) => scaled(v, [["TB", 1e12], ["GB", 1e9], ["MB", 1e6], ["kB", 1e3]], 1);
  const seconds = (v) => (v >= 120 ? scaled(v, [["h", 3600], ["min", 60]], 1) : v >= 1 ? `${v.toFixed(1)} s` : scaled(v, [["ms", 1e-3], ["µs", 1e-6]], 1));
  const tokens = (v) => (v % 1048576 === 0 ? `${v / 1048576}M` : v % 1024 === 0 && v >= 1024 ? `${v / 1024}K` : v.toLocaleString("en"));
  const number = (v, digits = 3) => v.toLocaleString("en", { maximumSignificantDigits: digits });
  const money = (v) => (v >= 1000 ? `$${number(v, 4)}` : v >= 0.0995 ? `$${v.toFixed(2)}` : v > 0 ? `$${Number(v.toPrecision(2))}` : "$0");
  const grid = (l) => ["tp", "ep", "pp", "cp", "dp"].filter((k) => l[k] > 1).map((k) => `${k}${l[k]}`).join(" ") || "one device";

  const make = (tag, attributes = {}, ...children) => {
    const svg = ["svg", "line", "text", "polyline", "circle", "title"].includes(tag);
    const node = svg ? document.createElementNS("http://www.w3.org/2000/svg", tag) : document.createElement(tag);
    for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
    node.append(...children);
    return node;
  };
  const fill = (id, ...children) => byId(id).replaceChildren(...children);

  // Slider positions: about three a doubling, ending at the value itself
  const steps = (low, high) => {
    const out = [];
    for (let v = low; v < high; v *= 2) out.push(v, Math.round(v * 1.5));
    return [...new Set(out.filter((v) => v < high)), high];
  };
  const limit = data.profiles[data.start.precision].max_context;
  const with_ = (list, value) => [...new Set([...list, value])].sort((a, b) => a - b);
  const scales = {
    context: with_(steps(Math.min(1024, limit), limit), data.start.context),
    users: with_(steps(1, 8192), data.start.users),
    answer: with_(steps(64, Math.min(393216, limit)), data.start.answer),
  };

  function setUp() {
    for (const [id, list] of Object.entries(scales)) {
      byId(id).max = list.length - 1;
      byId(id).value = list.indexOf(data.start[id]);
    }
    byId("hit").value = data.start.hit * 100;
    byId("precision").append(...Object.keys(data.profiles).map((p) => make("option", { value: p }, p)));
    byId("chip").append(...data.chips.map((c) => make("option", { value: c.id }, c.name)));
    byId("devices").append(make("option", { value: "" }, "cheapest"), ...data.counts.map((n) => make("option", { value: n }, String(n))));
    byId("precision").value = data.start.precision;
    byId("chip").value = data.start.chip;
    byId("devices").value = data.start.devices || "";
    byId("price").value = chips[data.start.chip].price;
    byId("speed").value = data.start.speed || "";
    byId("wait").value = data.start.wait ?? "";
    byId("chip").addEventListener("change", () => { byId("price").value = chips[byId("chip").value].price; });
    for (const id of ["context", "users", "answer", "hit", "precision", "chip", "devices", "price", "speed", "wait"]) {
      byId(id).addEventListener("input", draw);
      byId(id).addEventListener("change", draw);
    }
  }

  function settings() {
    const pick = (id) => scales[id][byId(id).value];
    const context = pick("context"), answer = Math.min(pick("answer"), Math.floor(context / 2));
    const price = byId("price").valueAsNumber;
    const chip = { ...chips[byId("chip").value], ...(price >= 0 ? { price } : {}) };
    const speed = byId("speed").valueAsNumber, wait = byId("wait").valueAsNumber;
    return { wishes: { speed: speed > 0 ? speed : 0, wait: wait > 0 ? wait : Infinity }, load: { context, users: pick("users"), answer, hit: byId("hit").value / 100 }, chip, profile: data.profiles[byId("precision").value],
      precision: byId("precision").value, counts: byId("devices").value ? [Number(byId("devices").value)] : data.counts };
  }

  function draw() {
    const s = settings(), { load, chip, profile } = s;
    byId("context-text").value = `${tokens(load.context)} tokens`;
    byId("users-text").value = number(load.users, 5);
    byId("answer-text").value = `${tokens(load.answer)} tokens`;
    byId("hit-text").value = `${Math.round(load.hit * 100)} %`;
    const found = Plan.search(profile, chip, load, data.limits, data.counts, s.wishes);
    const allowed = found.options.filter((o) => s.counts.includes(o.devices));
    const best = allowed[0];
    verdict(s, best, found);
    tiles(best, s);
    memoryPart(best, found, s);
    timePart(best);
    optionTable(found, best);
    chart(s, best);
    incomeTable(best, load);
    figureTable(chip);
    return best;
  }

  const nearest = (found, s) => found.rejected.filter((r) => s.counts.includes(r.devices)).reduce((a, b) => (Plan.nearer(b, a) ? b : a), undefined);
  const misses = { memory: (v) => `${bytes(v)} a device short`, speed: (v) => `${number(v)} tokens/s a user too slow`,
    wait: (v) => `first token ${seconds(v)} too late` };

  function verdict(s, best, found) {
    const node = byId("verdict");
    node.className = best ? "verdict" : "verdict bad";
    if (!best) {
      const near = nearest(found, s), enough = found.options.map((o) => o.devices).sort((a, b) => a - b)[0];
      const what = `${data.model} at ${s.precision}`, on = near && `${near.devices} × ${s.chip.id}`;
      node.textContent = (!near ? `No layout has ${s.counts.join(" or ")} devices.` : near.reason === "memory"
        ? `${what} does not fit ${on}: it needs ${bytes(near.missing)} a device more, ${bytes(near.missing * near.devices)} in all.`
        : `${what} fits ${on}, but not your wishes: ${misses[near.reason](near.missing)}.`) + (enough ? ` ${enough} devices are enough.` : "");
      return;
    }
    const { prediction: p, layout } = best, hides = p.reached_per_byte <= p.hides_up_to;
    const traffic = layout.ep === 1 ? "" : ` Experts’ traffic ${hides ? "hides behind their work" : "can’t hide"} when compute binds: C/B is `
      + `${number(p.compute_per_byte, 4)} FLOP a byte on paper, ${number(p.reached_per_byte, 4)} as reached, the limit 2d is ${number(p.hides_up_to, 4)}.`;
    node.textContent = `${best.devices} × ${s.chip.name.split(",")[0]} (${grid(layout)}) for ${money(best.costs.hour)} an hour. `
      + `Decoding is bound by ${p.decode.binds}, prompts by ${p.prefill.binds}.${traffic}`;
  }

  function tiles(best, s) {
    const tile = (label, value) => make("div", { class: "tile" }, make("span", {}, label), make("b", {}, value));
    const p = best && best.prediction, c = best && best.costs;
    const show = (f) => (best ? f() : "–");
    const own = data.prices.find((r) => [r.model, ...r.aliases].some((n) => n.toLowerCase() === data.model.toLowerCase()));
    fill("tiles",
      tile("a million output tokens", show(() => money(c.output))), tile("a million input tokens", show(() => money(c.input))),
      tile("a million cached tokens", show(() => money(c.cached))), tile("a request", show(() => money(c.request))),
      tile("tokens/s a user", show(() => number(1 / p.token_time))), tile("tokens/s, all users", show(() => number(p.decode_rate))),
      tile("first token after", show(() => seconds(p.first_token))), tile("prompt tokens/s", show(() => number(p.prefill_rate))),
      ...(own ? [tile(`break-even at ${own.model}’s price`, show(() => share(Plan.breakEven(c, own, s.load).load)))] : []));
  }
  const share = (v) => (v > 1 ? "never" : `${number(v * 100)} %`);

  const stack = (parts, whole) => make("div", { class: "stack" }, ...parts.map(([, v], i) =>
    make("i", { style: `width:${(100 * v / whole).toFixed(3)}%;background:var(${COLOURS[i % 6]})` })));
  const legend = (parts, text) => make("div", { class: "parts" }, ...parts.flatMap(([name, v], i) =>
    [make("i", { style: `background:var(${COLOURS[i % 6]})` }), make("span", {}, name), make("b", {}, text(v))]));

  function memoryPart(best, found, s) {
    const near = nearest(found, s);
    if (!best && !near) return fill("memory", make("p", { class: "soft" }, "–"));
    const parts = Object.entries(best ? best.prediction.memory : Plan.memory(s.profile, s.chip, near.layout, s.load, data.limits.chunk));
    const needed = parts.reduce((a, [, v]) => a + v, 0), room = s.chip.memory * s.chip.efficiency.usable;
    return fill("memory", stack(parts, Math.max(needed, room)), make("p", { class: needed > room ? "bad small" : "soft small" },
      `${bytes(needed)} of ${bytes(room)} that tensors may take (${bytes(s.chip.memory)} in all)`), legend(parts, bytes));
  }

  function timePart(best) {
    if (!best) return fill("time", make("p", { class: "soft" }, "–"));
    const rows = [["one token of every user", best.prediction.decode], ["a chunk of prompt", best.prediction.prefill]].flatMap(([title, t]) => {
      const parts = ["compute", "memory", "link", "overhead"].map((k) => [k, t[k]]);
      return [make("h3", {}, `${title}: ${seconds(t.total)}${best.layout.pp > 1 ? " a stage" : ""}`), stack(parts, t.total), legend(parts, seconds)];
    });
    return fill("time", ...rows);
  }

  const row = (cells, tag = "td", name = "") => make("tr", name ? { class: name } : {}, ...cells.map((c, i) => make(tag, i ? { class: "num" } : {}, c)));

  function optionTable(found, best) {
    const head = row(["devices", "layout", "a request", "M output", "M input", "tokens/s a user", "first token", "memory", "decode bound by"], "th");
    fill("options", make("thead", {}, head), make("tbody", {}, ...found.options.map((o) => row([String(o.devices), grid(o.layout), money(o.costs.request),
      money(o.costs.output), money(o.costs.input), number(1 / o.prediction.token_time), seconds(o.prediction.first_token),
      bytes(o.prediction.needed), o.prediction.decode.binds], "td", o === best ? "chosen" : ""))));
    fill("misses", found.rejected.length ? `Not these: ${found.rejected.map((r) => `${r.devices} (${misses[r.reason](r.missing)})`).join(", ")}.` : "");
  }

  // Cost of output tokens as users grow, on the chosen number of devices and on whatever is cheapest
  function chart(s, best) {
    const users = [1, 4, 16, 64, 256, 1024, 4096];
    const line = (counts) => users.map((u) => {
      const o = Plan.search(s.profile, s.chip, { ...s.load, users: u }, data.limits, counts, s.wishes).options[0];
      return o && [u, o.costs.output];
    }).filter(Boolean);
    const series = [["cheapest devices for each load", line(data.counts.filter((n) => n <= 128))]];
    if (best) series.push([best.devices === 1 ? "1 device" : `${best.devices} devices`, line([best.devices])]);
    const own = data.prices.find((r) => [r.model, ...r.aliases].some((n) => n.toLowerCase() === data.model.toLowerCase()));
    if (own) series.push([`${own.model}’s price`, [[1, own.output], [4096, own.output]]]);
    const points = series.flatMap(([, l]) => l);
    if (!points.length) return fill("chart", make("p", { class: "soft" }, "–"));
    const W = 420, H = 280, L = 66, R = 18, T = 14, B = 48, log = Math.log10;
    const low = Math.floor(log(Math.min(...points.map((p) => p[1])))), high = Math.max(low + 1, Math.ceil(log(Math.max(...points.map((p) => p[1])))));
    const x = (v) => L + log(v) / log(4096) * (W - L - R), y = (v) => H - B - (log(v) - low) / (high - low) * (H - T - B);
    const svg = make("svg", { class: "chart", viewBox: `0 0 ${W} ${H}`, role: "img", "aria-label": "US$ a million output tokens over users at once" });
    for (let e = low; e <= high; e++) svg.append(make("line", { class: "axis", x1: L, x2: W - R, y1: y(10 ** e), y2: y(10 ** e) }),
      make("text", { x: L - 6, y: y(10 ** e) + 6, "text-anchor": "end" }, `$${Number((10 ** e).toPrecision(1))}`));
    for (const u of users) svg.append(make("text", { x: x(u), y: H - B + 21, "text-anchor": "middle" }, tokens(u)));
    svg.append(make("text", { x: (L + W) / 2, y: H - 4, "text-anchor": "middle" }, "users at once"));
    series.forEach(([, l], i) => {
      svg.append(make("polyline", { points: l.map(([u, v]) => `${x(u).toFixed(1)},${y(v).toFixed(1)}`).join(" "), fill: "none",
        stroke: `var(${COLOURS[i]})`, "stroke-width": 2.2 }));
      for (const [u, v] of l) svg.append(make("circle", { cx: x(u), cy: y(v), r: 2.8, fill: `var(${COLOURS[i]})` },
        make("title", {}, `${u} users: ${money(v)}`)));
    });
    return fill("chart", svg, make("div", { class: "legend" }, ...series.map(([name], i) =>
      make("span", {}, make("i", { style: `background:var(${COLOURS[i]})` }), name))));
  }

  function incomeTable(best, load) {
    const head = make("thead", {}, row(["price list", "since", "a request brings", "break-even", "requests a day", "left at full load"], "th"));
    const rows = data.prices.map((r) => {
      if (!best) return row([r.model, r.since, "–", "–", "–", "–"]);
      const b = Plan.breakEven(best.costs, r, load);
      return row([r.model, r.since, money(b.income), share(b.load), number(b.requests_per_day), b.margin > 0 ? `${number(b.margin * 100)} %` : "a loss"]);
    });
    fill("income", head, make("tbody", {}, ...rows));
  }

  function figureTable(chip) {
    const rate = (v) => scaled(v, [["PFLOP/s", 1e15], ["TFLOP/s", 1e12], ["GFLOP/s", 1e9]], 1), speed = (v) => `${bytes(v)}/s`;
    const lines = [["memory", chip.memory, bytes], ["bandwidth", chip.bandwidth, speed],
      ...Object.entries(chip.flops).map(([f, v]) => [`flops.${f}`, v, rate]), ["domain", chip.domain, String], ["scale_up", chip.scale_up, speed],
      ["scale_out", chip.scale_out, speed], ["host", chip.host, speed], ["price", chips[chip.id].price, (v) => `${money(v)} an hour`],
      ["efficiency", chip.efficiency, (e) => `compute ${e.compute}, memory ${e.memory}, links ${e.links}, usable ${e.usable}`]];
    const head = make("tr", {}, make("th", {}, "figure"), make("th", { class: "num" }, "value"), make("th", {}, "from"));
    fill("figures", make("thead", {}, head), make("tbody", {}, ...lines.map(([key, value, text]) => {
      const guess = chip.estimates.includes(key);
      return make("tr", {}, make("td", {}, key), make("td", { class: "num" }, text(value)),
        make("td", guess ? { class: "warn" } : {}, `${guess ? "estimate: " : ""}${chip.sources[key]}`));
    })));
  }

  setUp();
  const best = draw(), expected = data.expected;
  const same = expected === null ? best === undefined
    : best && best.devices === expected.devices && Math.abs(best.costs.request / expected.request - 1) < 1e-9;
  byId("check").textContent = same ? "This page’s arithmetic gives the same answer as fathom plan for the settings it opened with."
    : "This page’s arithmetic differs from fathom plan’s for the settings it opened with: please report it.";
  byId("check").className = same ? "soft small" : "bad";
})();
