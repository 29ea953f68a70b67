// The chat page: joins the parts and keeps what is shown, what is kept and what is asked in step.

import * as talk from "./conversation.js";
import { composer } from "./composer.js";
import * as dialogs from "./dialogs.js";
import { announce, byId, download, el, toast, turnTheme } from "./dom.js";
import { count, short } from "./figures.js";
import * as kept from "./kept.js";
import { view } from "./messages.js";
import { contextUsed, showMeters } from "./meters.js";
import * as service from "./service.js";
import { importAll, sidebar } from "./sidebar.js";
import { run } from "./turn.js";

const SAVE_EVERY = 1000;  // ms between two saves of a growing answer
const LONGEST_READ = 400;  // characters of an answer that a screen reader is given whole

let conversation = null;
let model = null, balance = null;
let running = null;  // { conversation, node, controller, view }
let views = new Map();
let draft = 0;
const log = byId("log"), turns = byId("turns");

const side = sidebar({ open, gone: () => { stop(); fresh(); }, renamed: rename, current: () => conversation.id });
const box = composer({ send, stop, mode: setMode, counted: (n) => { draft = n; meters(); } });
const actions = {
  edit: (node, text) => ask(talk.add(conversation, node.parent, { role: "user", text, files: node.files }).id),
  send: (node, results) => ask(talk.add(conversation, node.id, { role: "tool", results }).id),
  again: (node) => ask(node.parent),
  retry: retry,
  goOn: (node) => start(node, { goOn: true }),
  pick: (id) => { if (!running) { talk.show(conversation, id); keep(); show(); } },
  key: async (node) => { if (await askKey()) retry(node); },
  canAct: () => !running,
};

// ---- conversations

function open(id) {
  const found = kept.load(id);
  if (!found) return fresh();
  if (running && running.conversation.id === id) conversation = running.conversation;
  else conversation = found;
  settleInterrupted();
  box.setMode(conversation.settings.mode);
  remember();
  closeSide();
  show();
  byId("log").scrollTop = byId("log").scrollHeight;
  box.focus();
}

function fresh() {
  conversation = talk.create(kept.settings());
  box.setMode(conversation.settings.mode);
  closeSide();
  show();
  box.focus();
}

/** Answers that were under way when the page was left: the service ended them then, and knows what they cost. */
function settleInterrupted() {
  for (const node of Object.values(conversation.nodes)) {
    if (node.role !== "assistant" || node === running?.node) continue;
    if (node.finish === null) {
      node.finish = talk.isEmpty(node) ? "refused" : "broken";
      node.trouble = { kind: "again", text: "The page was left before this answer was complete.", detail: "", retryAfter: null };
    }
    if (talk.isUnsettled(node)) billLater(conversation, node);
  }
}

async function billLater(whose, node) {
  const found = await service.receipt(node.request);
  if (!found || !talk.isUnsettled(node)) return;
  talk.settle(whose, node, found);
  keep(whose);
  if (whose === conversation) show();
}

function rename(id, title) {
  const found = id === conversation.id ? conversation : kept.load(id);
  found.title = title;
  keep(found);
  if (found === conversation) head();
}

function setMode(mode) {
  conversation.settings.mode = mode;
  remember();
}

function keep(whose = conversation) {
  if (!Object.keys(whose.nodes).length) return;
  try {
    kept.save(whose);
    if (whose === conversation) kept.keepCurrent(whose.id);
  } catch (error) {
    dialogs.noRoom(error);
  }
}

/** Keeps the conversation, and its settings for the next one. */
function remember() {
  const { system: _, ...lasting } = conversation.settings;
  try {
    kept.keepSettings(lasting);
  } catch (error) {
    dialogs.noRoom(error);
  }
  keep();
}

// ---- asking

async function send({ text, files }) {
  if (running) return;
  if (!kept.key() && !(await askKey())) return;
  const node = talk.add(conversation, answered(conversation.leaf), { role: "user", text, files });
  box.clear();
  ask(node.id);
}

/** Where the next message goes: not behind an answer of which nothing came. */
function answered(leaf) {
  const node = conversation.nodes[leaf];
  if (!node || !talk.isEmpty(node)) return leaf;
  talk.drop(conversation, node);
  return node.parent;
}

function ask(parent) {
  if (!running) start(talk.addAnswer(conversation, parent));
}

function retry(node) {
  if (running) return;
  if (talk.isEmpty(node)) talk.drop(conversation, node);
  ask(node.parent);
}

async function start(node, { goOn = false } = {}) {
  if (running) return;
  if (!model) await meet();
  const mine = { conversation, node, controller: new AbortController(), live: true, saved: 0, frame: 0, heard: "" };
  running = mine;
  node.finish = null;
  node.trouble = null;
  keep();
  side.show();
  box.setBusy(true);
  show();
  toEnd();
  await run(conversation, node, model ?? { name: "", price: { cached: 0, input: 0, output: 0 } },
    { signal: mine.controller.signal, goOn, changed: (what) => changed(mine, what) });
}

function changed(mine, what) {
  const { node } = mine;
  if (what === "waiting") node.waited = true;
  if (what !== mine.heard && ["reasoning", "content"].includes(what)) announce(what === "reasoning" ? "Thinking" : "Answering");
  mine.heard = what;
  if (what === "end") ended(mine);
  else if (what === "billed") { keep(mine.conversation); if (mine.conversation === conversation && !running) show(); refreshBalance(); }
  else {
    if (performance.now() - mine.saved > SAVE_EVERY) { mine.saved = performance.now(); keep(mine.conversation); }
    mine.frame ||= requestAnimationFrame(() => { mine.frame = 0; draw(mine); });
  }
}

function draw(mine) {
  if (mine.conversation !== conversation) return;
  const following = atEnd();
  views.get(mine.node.id)?.update(mine.live);
  if (following) toEnd();
}

function ended(mine) {
  const { node } = mine;
  mine.live = false;
  running = null;
  delete node.waited;
  node.ended = Date.now();
  keep(mine.conversation);
  box.setBusy(false);
  if (mine.conversation === conversation) {
    const following = atEnd();
    show();
    if (following) toEnd();
    if (node.finish === "tool_calls") turns.querySelector(".calls textarea")?.focus();
  }
  side.show();
  refreshBalance();
  announce(node.trouble ? node.trouble.text : node.finish === "tool_calls" ? "The model calls a tool and waits for its result."
    : node.content.length <= LONGEST_READ ? `Answer: ${node.content}` : "The answer is complete.");
}

function stop() {
  running?.controller.abort();
}

// ---- the service

/** Learns the model; says so if that failed. */
async function meet() {
  try {
    model = await service.model();
    await refreshBalance();
  } catch (error) {
    if (!(error instanceof service.Trouble)) throw error;
    model = null;
    if (error.kind === "key" && kept.key()) await askKey(error.text);
    else toast(error.text);
  } finally {
    head();
  }
}

async function refreshBalance() {
  try {
    [model, balance] = await Promise.all([service.model(), service.balance()]);
    meters();
  } catch (error) {
    if (!(error instanceof service.Trouble)) throw error;  // what it costs was said with the turn; the rest can wait
  }
}

async function askKey(said = "") {
  const given = await dialogs.askKey(async () => { model = await service.model(); }, said);
  if (given) { await refreshBalance(); head(); }
  box.focus();
  return given;
}

function openSettings() {
  dialogs.settings(conversation.settings, {
    changed: (values) => { conversation.settings = values; remember(); box.setMode(values.mode); show(); },
    change: () => askKey(),
    forget: () => { kept.forgetKey(); model = balance = null; head(); toast("The key is removed from this browser."); },
    exportAll: () => download("fathom-chats.json", JSON.stringify(kept.all(), null, 1), "application/json"),
    removeAll: () => { stop(); kept.all().forEach((c) => kept.remove(c.id)); fresh(); side.show(); },
    about: model ? `${model.name}: a context of ${count(model.context)} tokens. Prices: ${model.price.row}.` : "",
  });
}

async function importFile(file) {
  try {
    const ids = await importAll(file);
    side.show();
    if (ids.length === 1) open(ids[0]);
    toast(ids.length === 1 ? "Imported." : `Imported ${ids.length} conversations.`);
  } catch (error) {
    toast(error instanceof kept.NoRoom ? error.message : `${file.name} isn’t a conversation that this page exported.`);
  }
}

// ---- drawing

function show() {
  views = new Map();
  const path = talk.path(conversation);
  turns.replaceChildren(...path.map((node) => {
    const made = view(conversation, node, actions);
    views.set(node.id, made);
    return made.element;
  }));
  if (!path.length) turns.append(welcome());
  for (const node of path) views.get(node.id).update(node === running?.node && running.live);
  head();
  side.show();
}

const STARTERS = ["What is 17 + 28?", "Write a Python function that reverses a list.", "Explain attention in three sentences."];

function welcome() {
  return el("div", { class: "welcome" }, el("p", { class: "big" }, "What can I help with?"),
    el("div", { class: "starters" }, STARTERS.map((text) => el("button", { type: "button", onclick: () => box.fill(text) }, text))));
}

function head() {
  const title = conversation.title || "New chat";
  byId("title").textContent = title;
  document.title = conversation.title ? `${title} · Fathom` : "Fathom";
  byId("model-name").textContent = model ? `${model.name}, ${short(model.context)} context.` : "";
  meters();
}

const meters = () => showMeters(conversation, model, draft);
const atEnd = () => log.scrollHeight - log.scrollTop - log.clientHeight < 60;
function toEnd() { log.scrollTop = log.scrollHeight; }

// ---- the rest of the page

function closeSide() {
  document.body.classList.remove("side-open");
  byId("side-open").setAttribute("aria-expanded", String(!document.body.classList.contains("side-closed")));
}

function toggleSide() {
  const phone = matchMedia("(max-width: 760px)").matches;
  const name = phone ? "side-open" : "side-closed";
  const on = document.body.classList.toggle(name);
  byId("side-open").setAttribute("aria-expanded", String(phone ? on : !on));
  if (phone && on) byId("new").focus();
}

function editLast() {
  const last = talk.path(conversation).findLast((node) => node.role === "user");
  if (last) turns.querySelector(`[data-id="${last.id}"] .edit`)?.click();
}

function nextMode() {
  const modes = Object.keys(talk.MODES);
  const next = modes[(modes.indexOf(conversation.settings.mode) + 1) % modes.length];
  box.setMode(next);
  setMode(next);
  announce(talk.MODES[next]);
}

/** What the keys do; dialogs.SHORTCUTS describes it. */
const KEYS = {
  "ctrl KeyK": fresh, "ctrl KeyB": toggleSide, "ctrl Comma": openSettings, "ctrl Slash": dialogs.shortcuts, "alt KeyM": nextMode,
  "alt KeyR": () => { const last = talk.path(conversation).findLast((node) => node.role === "assistant"); if (last) retry(last); },
  "Escape": () => { if (running) stop(); else if (document.body.classList.contains("side-open")) { closeSide(); byId("side-open").focus(); } },
};

function onKey(event) {
  if (document.querySelector("dialog[open]") || event.shiftKey) return;
  const does = KEYS[`${event.ctrlKey || event.metaKey ? "ctrl " : ""}${event.altKey ? "alt " : ""}${event.code}`];
  if (does) {
    event.preventDefault();
    does();
  } else if (event.key === "ArrowUp" && event.target === byId("prompt") && box.isEmpty() && !running) {
    event.preventDefault();
    editLast();
  }
}

function takeKeyFromAddress() {
  const given = /^#key=(sk-\w+)$/.exec(location.hash);
  if (!given) return;
  history.replaceState(null, "", location.pathname);
  if (!kept.key()) kept.keepKey(given[1]);  // a link doesn't change whose account is charged
}

byId("new").addEventListener("click", fresh);
byId("side-open").addEventListener("click", toggleSide);
byId("side-close").addEventListener("click", () => { closeSide(); byId("side-open").focus(); });
byId("scrim").addEventListener("click", closeSide);
byId("settings-open").addEventListener("click", openSettings);
byId("shortcuts").addEventListener("click", dialogs.shortcuts);
byId("cost").addEventListener("click", () => dialogs.costs(conversation, model, balance, contextUsed(conversation)));
byId("theme").addEventListener("click", () => { byId("theme-now").textContent = turnTheme(); });
byId("theme-now").textContent = document.documentElement.dataset.theme ?? "system";
byId("import").addEventListener("click", () => byId("import-input").click());
byId("import-input").addEventListener("change", (event) => { const [file] = event.target.files; event.target.value = ""; if (file) importFile(file); });
byId("latest").addEventListener("click", () => { toEnd(); box.focus(); });
log.addEventListener("scroll", () => { byId("latest").hidden = atEnd(); }, { passive: true });
document.addEventListener("keydown", onKey);
addEventListener("pagehide", () => { if (running) keep(running.conversation); });
kept.onOthersChange((what, id) => {
  if (what === "conversation" && id === conversation.id && !running && kept.load(id)) { conversation = kept.load(id); show(); }
  else side.show();
});

takeKeyFromAddress();
if (kept.current() && kept.load(kept.current())) open(kept.current());
else fresh();
if (kept.key()) meet();
else askKey();
