// Markdown to elements, safely and as it grows. The model's HTML is shown as text, never made into elements; what the Markdown library
// makes still goes through the sanitiser, so that a fault in one of the two isn't enough. Pictures become links: showing one would be a
// request to somewhere else, and could carry what was said with it.
//
// While an answer grows only its last block is made anew, so selections and scroll positions above it stay.

import { Marked } from "./vendor/marked.esm.js";
import "./vendor/purify.min.js";
import { copy, el, icon } from "./dom.js";

const marked = new Marked({ gfm: true, breaks: false, async: false });
const escaped = (text) => text.replace(/[&<>"']/g, (c) => `&#${c.charCodeAt(0)};`);
marked.use({
  renderer: {
    html: ({ text }) => escaped(text),
    image: ({ href, text }) => `<a href="${escaped(href)}">${escaped(text || href)}</a>`,
  },
});
const ALLOWED = {
  ALLOWED_TAGS: ["p", "br", "hr", "h1", "h2", "h3", "h4", "h5", "h6", "strong", "em", "del", "code", "pre", "blockquote", "ul", "ol", "li", "a",
    "table", "thead", "tbody", "tr", "th", "td", "input"],
  ALLOWED_ATTR: ["href", "class", "start", "align", "type", "checked", "disabled"],
  ALLOWED_URI_REGEXP: /^(?:https?|mailto):/i,
  ALLOW_DATA_ATTR: false, ALLOW_ARIA_ATTR: false, RETURN_DOM_FRAGMENT: true,
};

/** Shows `text` in `box`. Called again with a longer text it changes only what has changed. */
export function render(box, text, { whole = true } = {}) {
  const blocks = marked.lexer(text);
  const links = JSON.stringify(blocks.links);  // a definition further down changes what stands above
  const before = box.links === links ? (box.raws ?? []) : [];
  const raws = blocks.map((block) => block.raw);
  let same = 0;
  while (same < Math.min(before.length, raws.length) && before[same] === raws[same]) same++;
  while (box.children.length > same) box.lastElementChild.remove();
  for (const block of blocks.slice(same)) box.append(made(block, blocks.links));
  box.raws = raws;
  box.links = links;
  box.classList.toggle("growing", !whole);
}

function made(block, links) {
  const html = marked.parser(Object.assign([block], { links }));
  const holder = el("div", { class: "block" }, globalThis.DOMPurify.sanitize(html, ALLOWED));
  for (const link of holder.querySelectorAll("a")) {
    link.target = "_blank";
    link.rel = "noopener noreferrer nofollow";
  }
  for (const box of holder.querySelectorAll("input")) {
    box.disabled = true;
    if (box.type !== "checkbox") box.remove();
  }
  for (const table of holder.querySelectorAll("table")) table.replaceWith(el("div", { class: "scroll", tabindex: "0" }, table.cloneNode(true)));
  for (const pre of holder.querySelectorAll("pre")) pre.replaceWith(codeBlock(pre));
  return holder;
}

function codeBlock(pre) {
  const code = pre.querySelector("code") ?? pre;
  const language = /language-(\S+)/.exec(code.className)?.[1] ?? "";
  const text = code.textContent.replace(/\n$/, "");
  const button = el("button", { type: "button", class: "quiet copy", "aria-label": "Copy code" }, icon("copy"), icon("check"), el("span", {}, "Copy"));
  button.addEventListener("click", () => copy(text, button));
  return el("div", { class: "code" }, el("div", { class: "code-head" }, el("span", {}, language || "text"), button),
    el("pre", { tabindex: "0" }, el("code", {}, text)));
}
