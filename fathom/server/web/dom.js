// Making elements, and the few things that every part of the pages does with them. Text is only ever set as text.

const SVG = "http://www.w3.org/2000/svg";

/** An element. attributes: on… are listeners, true is an empty attribute, false, null and undefined are none; children: nodes and texts. */
export function el(tag, attributes = {}, ...children) {
  return filled(document.createElement(tag), attributes, children);
}

/** The same for SVG. */
export function svg(tag, attributes = {}, ...children) {
  return filled(document.createElementNS(SVG, tag), attributes, children);
}

function filled(node, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else if (value === true) node.setAttribute(name, "");
    else if (value !== false && value !== null && value !== undefined) node.setAttribute(name, value);
  }
  node.append(...children.flat().filter((child) => child !== null && child !== undefined && child !== false));
  return node;
}

/** One of the symbols that stand in the page. */
export function icon(name) {
  return svg("svg", { class: "icon", "aria-hidden": "true" }, svg("use", { href: `#i-${name}` }));
}

/** A button that shows a symbol and says what it does. */
export function iconButton(name, label, onclick, attributes = {}) {
  return el("button", { type: "button", class: "quiet icon-only", "aria-label": label, title: label, onclick, ...attributes }, icon(name));
}

export const byId = (id) => document.getElementById(id);

/** Tells a screen reader, which doesn't follow an answer word by word. */
export function announce(text) {
  const region = byId("announcer");
  region.textContent = "";
  requestAnimationFrame(() => { region.textContent = text; });
}

/** A short message at the foot of the page. action: [label, function]. */
export function toast(text, action = null, seconds = 6) {
  const box = byId("toasts");
  const note = el("div", { class: "toast" }, el("span", {}, text));
  const close = () => note.remove();
  if (action) note.append(el("button", { type: "button", class: "link", onclick: () => { close(); action[1](); } }, action[0]));
  note.append(iconButton("close", "Dismiss", close));
  box.append(note);
  setTimeout(close, seconds * 1000);
}

/** Puts text on the clipboard; the old way where the page isn't served securely, since browsers then have no other. */
export async function copy(text, button) {
  try {
    if (navigator.clipboard) await navigator.clipboard.writeText(text);
    else copyBySelection(text);
    button.classList.add("done");
    announce("Copied");
    setTimeout(() => button.classList.remove("done"), 1500);
  } catch {
    toast("The browser doesn’t let this page use the clipboard.");
  }
}

function copyBySelection(text) {
  const area = el("textarea", { class: "offscreen", "aria-hidden": "true" });
  area.value = text;
  const before = document.activeElement;
  (document.querySelector("dialog[open]") ?? document.body).append(area);
  area.select();
  const done = document.execCommand("copy");
  area.remove();
  before?.focus();
  if (!done) throw new Error("refused");
}

/** Offers text as a file. */
export function download(name, text, type) {
  const url = URL.createObjectURL(new Blob([text], { type }));
  el("a", { href: url, download: name }).click();
  setTimeout(() => URL.revokeObjectURL(url), 10_000);
}

/** Light, dark, or as the system has it: the next of the three. */
export function turnTheme() {
  const root = document.documentElement;
  const next = { undefined: "light", light: "dark", dark: undefined }[root.dataset.theme];
  if (next) root.dataset.theme = next;
  else delete root.dataset.theme;
  try {
    if (next) localStorage.setItem("fathom.theme", next);
    else localStorage.removeItem("fathom.theme");
  } catch {
    // it holds until the page is left
  }
  return next ?? "system";
}
