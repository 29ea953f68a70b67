// The dialogs: key, settings, cost, keyboard. Each is made when it is opened and gone when it is closed.

import { readTools } from "./conversation.js";
import { el, iconButton, toast } from "./dom.js";
import { count, money, price, tokens } from "./figures.js";
import * as kept from "./kept.js";

function dialog(title, body, { onclose = () => {}, wide = false } = {}) {
  const box = el("dialog", { "aria-labelledby": "dialog-title", class: wide ? "wide" : "" },
    el("div", { class: "dialog-head" }, el("h2", { id: "dialog-title" }, title), iconButton("close", "Close", () => box.close())), body);
  box.addEventListener("close", () => {
    box.remove();
    onclose();
    const back = document.activeElement;  // Chromium gives a text field its focus back without a caret, so typing goes nowhere
    back.blur();
    back.focus();
  });
  box.addEventListener("click", (event) => { if (event.target === box) box.close(); });
  document.body.append(box);
  box.showModal();
  return box;
}

/** Asks for the key; gives whether one was given. check: tries it, raises a Trouble. */
export function askKey(check, said = "") {
  return new Promise((done) => {
    let given = false;
    const field = el("input", { type: "password", id: "key", autocomplete: "off", spellcheck: "false", required: true, placeholder: "sk-…" });
    const words = el("p", { class: "bad", role: "alert" }, said);
    const button = el("button", { type: "submit", class: "main" }, "Use this key");
    const form = el("form", { method: "dialog", class: "stack", onsubmit: submit },
      el("p", {}, "Everything that costs or shows something needs a key. This browser keeps it, and sends it to this service only."),
      el("label", { for: "key" }, "API key"), field, words,
      el("p", { class: "soft small" }, "Whoever runs the service makes one with ", el("code", {}, "fathom keys create NAME"), ". You can remove it again in the settings."),
      el("div", { class: "buttons" }, button));
    async function submit(event) {
      event.preventDefault();
      const before = kept.key();
      button.disabled = true;
      try {
        kept.keepKey(field.value.trim());
        await check();
        given = true;
        box.close();
      } catch (error) {
        if (before) kept.keepKey(before);
        else kept.forgetKey();
        words.textContent = error.text ?? error.message;
        field.select();
      } finally {
        button.disabled = false;
      }
    }
    const box = dialog("Key", form, { onclose: () => done(given) });
    field.focus();
  });
}

const NUMBERS = [
  ["temperature", "Temperature", "0 to 2. 0 is always the likeliest. Empty: 1.", { min: 0, max: 2, step: "any" }],
  ["topP", "Top p", "0 to 1. Sample from the likeliest tokens that make up this probability. Empty: 1.", { min: 0, max: 1, step: "any" }],
  ["maxTokens", "Longest answer", "Tokens, thinking included. Empty: the service’s own.", { min: 1, max: 393216, step: 1 }],
  ["seed", "Seed", "A whole number; the same seed gives the same answer. Empty: another each time.", { min: 0, max: Number.MAX_SAFE_INTEGER, step: 1 }],
];
const EXAMPLE = [{ name: "get_weather", description: "The weather of a place now.",
  parameters: { type: "object", properties: { place: { type: "string" } }, required: ["place"] } }];

/** The settings of a conversation, and of this browser. changed: called with new settings; key, exportAll, removeAll: called without. */
export function settings(values, { changed, forget, change, exportAll, removeAll, about }) {
  const system = el("textarea", { id: "s-system", rows: 4, placeholder: "You are …" });
  system.value = values.system;
  const tools = el("textarea", { id: "s-tools", rows: 7, class: "mono", spellcheck: "false", "aria-describedby": "s-tools-said", placeholder: JSON.stringify(EXAMPLE) });
  tools.value = values.tools;
  const said = el("p", { id: "s-tools-said", class: "small", role: "status" });
  const choice = el("select", { id: "s-choice" });
  const numbers = NUMBERS.map(([name, label, about, bounds]) => {
    const field = el("input", { type: "number", id: `s-${name}`, inputmode: "decimal", "aria-describedby": `s-${name}-about`, ...bounds });
    if (values[name] !== null) field.value = values[name];
    return [name, field, el("div", { class: "field" }, el("label", { for: `s-${name}` }, label), field, el("p", { class: "soft small", id: `s-${name}-about` }, about))];
  });

  function check() {
    let found = [], wrong = "";
    try {
      found = readTools(tools.value);
    } catch (error) {
      wrong = error.message;
    }
    said.textContent = wrong || (found.length ? `${found.length === 1 ? "One tool" : `${found.length} tools`}: ${found.map((t) => t.function.name).join(", ")}.`
      : "A list of functions: name, description, parameters (a JSON schema).");
    said.className = wrong ? "small bad" : "small soft";
    tools.setCustomValidity(wrong);
    const wanted = choice.value || values.choice;
    const options = [["auto", "when it wants"], ["none", "never"], ["required", "always one of them"], ...found.map((t) => [t.function.name, `always ${t.function.name}`])];
    choice.replaceChildren(...options.map(([value, label]) => el("option", { value, selected: value === wanted }, label)));
    return !wrong;
  }

  function submit(event) {
    event.preventDefault();
    if (!check() || !form.reportValidity()) return;
    const read = Object.fromEntries(numbers.map(([name, field]) => [name, field.value === "" ? null : Number(field.value)]));
    changed({ ...values, ...read, system: system.value, tools: tools.value.trim(), choice: choice.value });
    box.close();
  }

  tools.addEventListener("input", check);
  check();
  const form = el("form", { class: "stack", onsubmit: submit, novalidate: true },
    el("label", { for: "s-system" }, "Instructions"), system, el("p", { class: "soft small" }, "For this conversation; the model reads them first."),
    el("div", { class: "label-row" }, el("label", { for: "s-tools" }, "Tools, as JSON"),
      el("button", { type: "button", class: "link", onclick: () => { tools.value = JSON.stringify(EXAMPLE, null, 2); check(); } }, "Example")), tools, said,
    el("div", { class: "field" }, el("label", { for: "s-choice" }, "The model calls a tool"), choice, el("p", { class: "soft small" }, "“Always” works without thinking only; while thinking the model decides.")),
    el("div", { class: "fields" }, numbers.map(([, , field]) => field)),
    el("div", { class: "buttons" }, el("button", { type: "button", onclick: () => box.close() }, "Cancel"), el("button", { type: "submit", class: "main" }, "Save")),
    el("h3", {}, "This browser"),
    el("div", { class: "plain-row" }, el("span", {}, "Key ", el("code", {}, kept.key() ? `${kept.key().slice(0, 11)}…` : "none")),
      el("span", { class: "buttons" }, el("button", { type: "button", onclick: () => { box.close(); change(); } }, "Change"),
        el("button", { type: "button", disabled: !kept.key(), onclick: () => { box.close(); forget(); } }, "Remove"))),
    el("div", { class: "plain-row" }, el("span", {}, "All conversations"), el("span", { class: "buttons" },
      el("button", { type: "button", onclick: exportAll }, "Export"),
      el("button", { type: "button", onclick: (event) => twice(event.currentTarget, () => { box.close(); removeAll(); }) }, "Delete"))),
    el("p", { class: "soft small" }, about));
  const box = dialog("Settings", form, { wide: true });
  system.focus();
}

/** What can't be taken back is done at the second click. */
function twice(button, action) {
  if (button.dataset.asked) return action();
  button.dataset.asked = "yes";
  button.textContent = "Really delete";
  button.classList.add("bad");
}

/** What a conversation cost, and by which prices. used: tokens of context. */
export function costs(conversation, model, balance, used) {
  const { spent } = conversation, prompt = spent.hit + spent.miss;
  const perMillion = (n) => `${price(n)} a million`;
  const rows = [
    ["Input", tokens(spent.miss), model ? perMillion(model.price.input) : ""],
    ["Input found in the cache", tokens(spent.hit), model ? perMillion(model.price.cached) : ""],
    ["Output", tokens(spent.output), model ? perMillion(model.price.output) : ""],
  ];
  dialog("Cost", el("div", { class: "stack" },
    el("p", { class: "big" }, money(spent.cost)),
    el("p", { class: "soft" }, "All turns of this conversation, versions that aren’t shown included, as they were billed."),
    el("div", { class: "scroll" }, el("table", {}, el("tbody", {}, rows.map((cells) => el("tr", {}, cells.map((cell, i) => el(i ? "td" : "th", i ? { class: "num" } : { scope: "row" }, cell))))))),
    el("p", { class: "soft" }, prompt ? `${count((100 * spent.hit) / prompt)} % of the input came from the cache. ` : "", model ? `Prices: ${model.price.row}.` : ""),
    model ? el("p", {}, `Context: ${count(used)} of ${tokens(model.context)} used.`) : null,
    balance ? el("p", {}, `Left on the key’s account: ${money(balance.left)}.`) : null,
    el("p", {}, el("a", { href: "/usage" }, "Usage by day and key"))));
}

export const SHORTCUTS = [
  ["Enter", "Send"], ["Shift Enter", "New line"], ["Esc", "Stop the answer"], ["Ctrl K", "New chat"], ["Ctrl B", "List of conversations"],
  ["Ctrl ,", "Settings"], ["Alt M", "Next reasoning mode"], ["Alt R", "Answer again"], ["↑ in an empty box", "Edit the last message"], ["Ctrl /", "This list"],
];

/** The keys that do something. */
export function shortcuts() {
  dialog("Keyboard", el("table", { class: "keys" }, el("tbody", {}, SHORTCUTS.map(([keys, what]) => el("tr", {},
    el("th", { scope: "row" }, keys.includes("↑") ? [el("kbd", {}, "↑"), " in an empty box"] : keys.split(" ").map((k) => el("kbd", {}, k))), el("td", {}, what))))));
}

/** Says that storage failed, once per trouble. */
export function noRoom(error) {
  toast(error.message, null, 12);
}
