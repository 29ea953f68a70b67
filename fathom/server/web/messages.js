// The turns of a conversation as elements. `view` makes one turn's, whose update() shows what has come since; what a click means is
// handed in as `actions`, so that nothing here changes a conversation.

import { MODES, siblings } from "./conversation.js";
import { copy, el, icon, iconButton } from "./dom.js";
import { count, duration, money, tokens } from "./figures.js";
import { render } from "./markdown.js";

const ENDS = {
  length: "Cut off at the longest answer allowed.",
  stopped: "Stopped.",
  broken: "",
  refused: "",
  content_filter: "Withheld by the service’s filter.",
  insufficient_system_resource: "The service ran out of time or memory for this answer.",
  aborted: "The service ended this answer.",
};

/** { element, update(live) } of a turn. actions: edit, send, again, retry, goOn, pick, key, canAct(). */
export function view(conversation, node, actions) {
  return { user: userView, tool: toolView, assistant: answerView }[node.role](conversation, node, actions);
}

function userView(conversation, node, actions) {
  const files = node.files.map((f) => el("details", { class: "file" },
    el("summary", {}, icon("clip"), el("span", { class: "name" }, f.name), f.tokens === null ? null : el("span", { class: "soft" }, tokens(f.tokens))),
    el("pre", { tabindex: "0" }, f.text)));
  const bubble = el("div", { class: "bubble" }, files, node.text ? el("div", { class: "text" }, node.text) : null);
  const editButton = iconButton("edit", "Edit this message", () => edit(element, bubble, bar, node, actions), { class: "quiet icon-only edit" });
  const copyButton = copier("Copy this message", () => node.text);
  const bar = el("div", { class: "bar" }, switcher(conversation, node, actions), copyButton, editButton);
  const element = el("article", { class: "turn user", "aria-label": "You", "data-id": node.id }, bubble, bar);
  return { element, update() {} };
}

function edit(element, bubble, bar, node, actions) {
  if (!actions.canAct()) return;
  const area = el("textarea", { "aria-label": "Edit the message", rows: Math.min(12, node.text.split("\n").length + 1) });
  area.value = node.text;
  const close = () => { form.replaceWith(bubble); bar.hidden = false; bar.querySelector(".edit").focus(); };
  const send = (event) => { event?.preventDefault(); if (area.value.trim() || node.files.length) actions.edit(node, area.value.trim()); };
  const form = el("form", { class: "editing", onsubmit: send }, node.files.length ? el("p", { class: "soft" }, `With ${node.files.map((f) => f.name).join(", ")}.`) : null, area,
    el("div", { class: "buttons" }, el("button", { type: "button", onclick: close }, "Cancel"), el("button", { type: "submit", class: "main" }, "Send")));
  area.addEventListener("keydown", (event) => {
    if (event.key === "Escape") { event.stopPropagation(); close(); }
    if (event.key === "Enter" && !event.shiftKey && !event.isComposing) send(event);
  });
  bubble.replaceWith(form);
  bar.hidden = true;
  area.focus();
  area.setSelectionRange(area.value.length, area.value.length);
}

function toolView(conversation, node) {
  const results = node.results.map((r) => el("details", { class: "result" },
    el("summary", {}, icon("tool"), el("span", { class: "name" }, `Result of ${r.name}`), el("span", { class: "soft peek" }, r.content.slice(0, 200))), el("pre", { tabindex: "0" }, r.content)));
  return { element: el("article", { class: "turn tool", "aria-label": "Results of tools", "data-id": node.id }, results), update() {} };
}

function answerView(conversation, node, actions) {
  const thought = el("div", { class: "thought", tabindex: "0" });
  const summary = el("summary", {});
  const reasoning = el("details", { class: "reasoning", hidden: true }, summary, thought);
  let touched = false, shown = 0;
  summary.addEventListener("click", () => { touched = true; });
  const waiting = el("div", { class: "waiting" }, el("span", { class: "dots", "aria-hidden": "true" }, el("i"), el("i"), el("i")), el("span", { class: "say soft" }));
  const content = el("div", { class: "prose" });
  const calls = el("div", { class: "calls" });
  const trouble = el("div");
  const bar = el("div", { class: "bar" });
  const element = el("article", { class: "turn answer", "aria-label": "Answer", "data-id": node.id }, reasoning, waiting, content, calls, trouble, bar);

  function update(live) {
    const thinking = live && node.reasoning && !node.content && !node.calls.length;
    element.setAttribute("aria-busy", String(live));
    reasoning.hidden = !node.reasoning;
    if (thinking && !touched) reasoning.open = true;
    if (!thinking && !touched && (node.content || node.calls.length || !live)) reasoning.open = false;
    summary.textContent = thinking ? `Thinking… ${duration(node.reasoningMs ?? 0)}` : `Thought for ${duration(node.reasoningMs ?? 0)}`;
    reasoning.classList.toggle("thinking", Boolean(thinking));
    const following = thought.scrollHeight - thought.scrollTop - thought.clientHeight < 40;
    thought.append(node.reasoning.slice(shown));  // what stands there stays, and with it what is selected
    shown = node.reasoning.length;
    if (thinking && following) thought.scrollTop = thought.scrollHeight;
    waiting.hidden = !live || Boolean(node.reasoning || node.content || node.calls.length);
    waiting.lastElementChild.textContent = node.waited ? "In the queue, or reading the conversation…" : "";
    render(content, node.content, { whole: !live });
    content.hidden = !node.content;
    showCalls(calls, node, live, actions, conversation);
    trouble.replaceChildren(...troubleOf(node, live, actions));
    bar.replaceChildren(...(live ? [] : footer(conversation, node, actions)));
  }
  return { element, update };
}

function showCalls(box, node, live, actions, conversation) {
  const forms = !live && node.finish === "tool_calls" && conversation.leaf === node.id;
  if (box.dataset.done === String(forms) && !live) return;
  box.dataset.done = String(forms);
  const cards = node.calls.map((call) => el("div", { class: "call" },
    el("div", { class: "call-head" }, icon("tool"), el("span", {}, "Calls "), el("code", {}, call.name || "…")),
    el("pre", { tabindex: "0", "aria-label": `Arguments of ${call.name}` }, pretty(call.arguments)),
    forms ? el("textarea", { rows: 2, "aria-label": `Result of ${call.name}`, placeholder: `What ${call.name} returned`, "data-call": call.id }) : null));
  box.replaceChildren(...cards);
  if (!forms || !node.calls.length) return;
  const fields = [...box.querySelectorAll("textarea")];
  const button = el("button", { type: "button", class: "main", disabled: true, onclick: submit }, fields.length > 1 ? "Send the results" : "Send the result");
  function submit() {
    if (button.disabled) return;
    actions.send(node, node.calls.map((call, i) => ({ id: call.id, name: call.name, content: fields[i].value })));
  }
  for (const field of fields) {
    field.addEventListener("input", () => { button.disabled = fields.some((f) => !f.value.trim()); });
    field.addEventListener("keydown", (event) => {
      if (event.key === "Enter" && !event.shiftKey && !event.isComposing) { event.preventDefault(); submit(); }
    });
  }
  box.append(el("div", { class: "buttons" }, el("span", { class: "soft" }, "The page doesn’t run tools. Type in what each would return."), button));
}

/** JSON with line breaks; what isn't whole JSON, as it is. */
function pretty(text) {
  try {
    return JSON.stringify(JSON.parse(text), null, 2);
  } catch {
    return text;
  }
}

function troubleOf(node, live, actions) {
  if (live || !node.trouble) return [];
  const { kind, text, detail, retryAfter } = node.trouble;
  const buttons = [];
  if (kind === "key") buttons.push(el("button", { type: "button", class: "main", onclick: () => actions.key(node) }, "Give a key"));
  buttons.push(el("button", { type: "button", onclick: () => actions.retry(node) }, "Try again"));
  const words = el("p", {}, text);
  if (kind === "later" && retryAfter) words.append(` It asks to wait ${retryAfter} s.`);
  return [el("div", { class: "trouble", role: "alert" }, el("div", {}, words, detail && kind !== "key" ? el("p", { class: "soft" }, detail) : null),
    el("div", { class: "buttons" }, buttons))];
}

function footer(conversation, node, actions) {
  const parts = [switcher(conversation, node, actions)];
  if (node.content) parts.push(copier("Copy this answer", () => node.content));
  if (!node.trouble) parts.push(iconButton("again", "Answer again", () => actions.again(node)));
  if (["length", "stopped", "broken"].includes(node.finish) && (node.content || node.reasoning) && !node.calls.length && conversation.leaf === node.id) {
    parts.push(el("button", { type: "button", class: "link", onclick: () => actions.goOn(node) }, "Continue"));
  }
  parts.push(el("span", { class: "figures soft" }, figures(node)));
  if (ENDS[node.finish]) parts.push(el("span", { class: "end" }, ENDS[node.finish]));
  return parts.filter(Boolean);
}

function figures(node) {
  const { usage } = node;
  if (!usage) return [node.finish === null ? null : el("span", {}, MODES[node.mode])];
  const prompt = usage.hit + usage.miss;
  const said = [
    [tokens(usage.output) + (usage.reasoning ? ` (${count(usage.reasoning)} thinking)` : ""), "Output tokens, billed"],
    node.rate ? [`${node.rate >= 99.5 ? count(node.rate) : node.rate.toPrecision(3)} tok/s`, "From the first token to the last"] : null,
    node.firstMs === null ? null : [`first after ${duration(node.firstMs)}`, "Time to the first token"],
    [`${count(prompt)} in` + (usage.hit ? `, ${count(usage.hit)} cached` : ""), "Prompt tokens, billed; those found in the cache cost less"],
    node.cost === null ? null : [money(node.cost), "What this turn cost"],
  ];
  return said.filter(Boolean).map(([text, title], i, all) => el("span", { title, class: i === all.length - 1 && node.cost !== null ? "price" : "" }, text));
}

function switcher(conversation, node, actions) {
  const all = siblings(conversation, node), at = all.findIndex((other) => other.id === node.id);
  if (all.length < 2) return null;
  return el("span", { class: "switch" },
    iconButton("prev", "The version before", () => actions.pick(all[at - 1].id), { disabled: at === 0 }),
    el("span", { class: "soft" }, `${at + 1} / ${all.length}`),
    iconButton("next", "The next version", () => actions.pick(all[at + 1].id), { disabled: at === all.length - 1 }));
}

function copier(label, text) {
  const button = iconButton("copy", label, () => copy(text(), button), { class: "quiet icon-only copy" });
  button.append(icon("check"));
  return button;
}
