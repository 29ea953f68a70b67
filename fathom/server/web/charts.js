// Charts as SVG, drawn by hand in the style of fathom/report: few lines, labels that can be read at phone width, and for each day a group
// that can be reached with the keyboard and says its figures. Colours come from the style sheet.

import { el, svg } from "./dom.js";

const LEFT = 52, RIGHT = 8, TOP = 10, BOTTOM = 26, MOST_SERIES = 6;

/** Stacked bars by day.
 *
 * Args: days: labels.  series: [{ name, values }], a value for each day.  write: a value as text.  width: of the box, in pixels.
 */
export function stacked(days, series, { write, label, width }) {
  const height = width < 520 ? 210 : 250;
  const tops = days.map((_, d) => series.reduce((sum, s) => sum + s.values[d], 0));
  const scale = axis(Math.max(...tops)), y = (v) => height - BOTTOM - (v / scale.top) * (height - TOP - BOTTOM);
  const step = (width - LEFT - RIGHT) / days.length, bar = Math.max(1, Math.min(38, step * 0.72));
  const parts = grid(scale, y, width, write);
  days.forEach((day, d) => {
    const x = LEFT + step * (d + 0.5) - bar / 2;
    const said = series.map((s) => [s.name, s.values[d]]).filter(([, v]) => v).map(([name, v]) => `${name}: ${write(v)}`);
    const text = `${day}: ${tops[d] ? [`${write(tops[d])}`, ...(said.length > 1 ? said : [])].join("\n") : "nothing"}`;
    let below = 0;
    const rects = series.map((s, i) => {
      const from = below;
      below += s.values[d];
      return s.values[d] ? svg("rect", { class: colour(i), x, width: bar, y: y(below), height: Math.max(0.5, y(from) - y(below)), rx: Math.min(2, bar / 4) }) : null;
    });
    parts.push(svg("g", { class: "day", tabindex: tops[d] ? 0 : -1, role: "img", "aria-label": text.replaceAll("\n", ", ") }, svg("title", {}, text),
      svg("rect", { class: "slot", x: LEFT + step * d, y: TOP, width: step, height: height - TOP - BOTTOM }), rects));
  });
  parts.push(...dates(days, (d) => LEFT + step * (d + 0.5), width, height));
  return svg("svg", { class: "chart", viewBox: `0 0 ${width} ${height}`, role: "group", "aria-label": label }, parts);
}

/** A line of shares 0..1 by day; null leaves a gap. */
export function shares(days, values, { label, width }) {
  const height = 190, y = (v) => height - BOTTOM - v * (height - TOP - BOTTOM);
  const x = (d) => LEFT + ((width - LEFT - RIGHT) * (d + 0.5)) / days.length;
  const write = (v) => `${Math.round(100 * v)} %`;
  const parts = grid({ top: 1, ticks: [0, 0.25, 0.5, 0.75, 1] }, y, width, write);
  const known = values.map((v, d) => [d, v]).filter(([, v]) => v !== null);
  let run = [];
  values.forEach((v, d) => {
    if (v !== null) run.push(`${x(d).toFixed(1)},${y(v).toFixed(1)}`);
    if (v === null || d === values.length - 1) {
      if (run.length > 1) parts.push(svg("polyline", { class: "share", points: run.join(" ") }));
      run = [];
    }
  });
  for (const [d, v] of known) {
    parts.push(svg("circle", { class: "dot", cx: x(d), cy: y(v), r: days.length > 45 ? 2 : 3 }, svg("title", {}, `${days[d]}: ${write(v)}`)));
  }
  parts.push(...dates(days, x, width, height));
  const last = known.at(-1);
  return svg("svg", { class: "chart", viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": last ? `${label}; last ${days[last[0]]}: ${write(last[1])}` : label }, parts);
}

/** Names of the series with their colours; none for a single one. */
export function legend(series) {
  return series.length < 2 ? [] : series.map((s, i) => el("span", {}, el("i", { class: colour(i) }), s.name));
}

/** The largest series, and the others as one. */
export function largest(series, weight) {
  const sorted = [...series].sort((a, b) => weight(b) - weight(a));
  const rest = sorted.slice(MOST_SERIES);
  if (!rest.length) return sorted;
  return [...sorted.slice(0, MOST_SERIES), { name: `${rest.length} others`, values: rest[0].values.map((_, d) => rest.reduce((sum, s) => sum + s.values[d], 0)) }];
}

const colour = (i) => `c${Math.min(i, MOST_SERIES) + 1}`;

/** A round top at or above `most`, and the ticks below it. */
export function axis(most) {
  if (!(most > 0)) return { top: 1, ticks: [0] };
  const size = 10 ** Math.floor(Math.log10(most / 4));
  const step = [1, 2, 2.5, 5, 10].map((m) => m * size).find((s) => s * 4 >= most);
  const ticks = [0];
  while (ticks.at(-1) < most) ticks.push(step * ticks.length);
  return { top: ticks.at(-1), ticks };
}

function grid({ ticks }, y, width, write) {
  return ticks.flatMap((v) => [svg("line", { class: "axis", x1: LEFT, x2: width - RIGHT, y1: y(v), y2: y(v) }),
    svg("text", { x: LEFT - 8, y: y(v) + 4, "text-anchor": "end" }, v === 0 ? "0" : write(v))]);
}

function dates(days, x, width, height) {
  const every = Math.ceil(days.length / Math.max(2, Math.floor((width - LEFT) / 64)));
  return days.map((day, d) => ((days.length - 1 - d) % every ? null : svg("text", { x: x(d), y: height - 6, "text-anchor": "middle" }, day.slice(5)))).filter(Boolean);
}
