// Money and counts: exact as the bill is (fathom/prices/money.py), and written for people.

/** Nano-dollars of a request, rounded once, half up, as the ledger does it. price: nano-dollars per million tokens. */
export function costOf(usage, price) {
  const total = BigInt(usage.hit) * BigInt(price.cached) + BigInt(usage.miss) * BigInt(price.input) + BigInt(usage.output) * BigInt(price.output);
  return Number((total + 500_000n) / 1_000_000n);
}

/** Nano-dollars from US$ as the service writes them: a number or a text with at most nine decimals. */
export function nano(dollars) {
  const [, sign, whole, part = ""] = /^(-?)(\d+)(?:\.(\d{1,9}))?$/.exec(typeof dollars === "number" ? dollars.toFixed(9) : dollars) ?? [];
  if (whole === undefined) throw new TypeError(`not an amount: ${dollars}`);
  return (sign ? -1 : 1) * Number(BigInt(whole) * 1_000_000_000n + BigInt(part.padEnd(9, "0")));
}

/** US$ with two decimals, three below a dollar, and below a cent two significant digits. */
export function money(amount) {
  const dollars = amount / 1e9;
  const size = Math.abs(dollars);
  if (size === 0) return "$0";
  if (size < 1e-9) return "< $0.000000001";
  const places = size >= 0.01 ? (size < 1 ? 3 : 2) : Math.min(9, 1 - Math.floor(Math.log10(size)));
  return `$${dollars.toLocaleString("en-US", { minimumFractionDigits: places, maximumFractionDigits: places })}`;
}

/** A price of a million tokens, with all its decimals. */
export const price = (amount) => `$${(amount / 1e9).toLocaleString("en-US", { minimumFractionDigits: 2, maximumFractionDigits: 9 })}`;

/** 1 234 567 with thin spaces. */
export const count = (n) => Math.round(n).toLocaleString("en-US").replaceAll(",", "\u202f");

/** At most four characters or so: 950, 12.3k, 1.05M. */
export function short(n) {
  for (const [size, unit] of [[1e9, "G"], [1e6, "M"], [1e3, "k"]]) if (n >= size) return `${Number((n / size).toPrecision(3))}${unit}`;
  return String(Math.round(n));
}

/** 40 ms, 1.4 s, 12 s, 2 min 5 s. */
export function duration(ms) {
  if (ms < 995) return `${10 * Math.round(ms / 10)} ms`;
  const seconds = ms / 1000;
  if (seconds < 9.95) return `${seconds.toFixed(1)} s`;
  const whole = Math.round(seconds);
  return whole < 60 ? `${whole} s` : `${Math.floor(whole / 60)} min ${whole % 60} s`;
}

export const tokens = (n) => `${count(n)} ${n === 1 ? "token" : "tokens"}`;
