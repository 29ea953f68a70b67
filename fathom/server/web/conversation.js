// A conversation as a value: a tree of turns, of which one path is shown. Editing a message or asking again makes a sibling, so nothing
// that was said, or paid for, is lost. No DOM here and no storage.
//
//   node  { id, parent, role: "user", text, files: [{ name, text, tokens }] }
//         { id, parent, role: "tool", results: [{ id, name, content }] }                 the results of the calls of `parent`
//         { id, parent, role: "assistant", mode, reasoning, content, calls: [{ id, name, arguments }], finish, trouble, request,
//           reasoningMs, firstMs, ms, usage: { hit, miss, output, reasoning }, cost, billed }    null where not known yet
//
// request: the id of the last request for it; billed: of the last one whose cost is in `cost`.
// finish: the API's finish_reason, or "stopped" (by the user), "broken" (the connection), "refused"; null while it runs.

const DEFAULTS = { mode: "thinking", system: "", tools: "", choice: "auto", temperature: null, topP: null, maxTokens: null, seed: null };
export const MODES = { off: "No thinking", thinking: "Thinking", max: "Max effort" };

/** Names that work where the page isn't served securely too, which crypto.randomUUID doesn't. */
export function newId() {
  return "n" + Array.from(crypto.getRandomValues(new Uint8Array(12)), (byte) => byte.toString(16).padStart(2, "0")).join("");
}

export function create(settings = {}) {
  const now = Date.now();
  return { fathom: 1, id: newId(), title: "", created: now, updated: now, settings: { ...DEFAULTS, ...settings, system: "" },
    nodes: {}, leaf: null, spent: { cost: 0, hit: 0, miss: 0, output: 0 } };
}

/** Whether a value, from storage or a file, is a conversation through and through. */
export function isConversation(value) {
  const text = (x) => typeof x === "string";
  if (!value || value.fathom !== 1 || !/^n[0-9a-f]{24}$/.test(value.id) || !text(value.title) || typeof value.nodes !== "object" || !value.nodes
    || !value.settings || !(value.settings.mode in MODES) || !text(value.settings.system) || !text(value.settings.tools)
    || !value.spent || !Number.isFinite(value.updated)) return false;
  const whole = (node) => ({
    user: () => text(node.text) && Array.isArray(node.files) && node.files.every((f) => text(f.name) && text(f.text)),
    tool: () => Array.isArray(node.results) && node.results.every((r) => text(r.id) && text(r.name) && text(r.content)),
    assistant: () => text(node.reasoning) && text(node.content) && Array.isArray(node.calls)
      && node.calls.every((c) => text(c.id) && text(c.name) && text(c.arguments)),
  })[node?.role]?.() ?? false;
  const seen = new Set();
  for (const [id, node] of Object.entries(value.nodes)) {  // parents stand before children, so there is no ring
    if (!whole(node) || node.id !== id || !(node.parent === null || seen.has(node.parent))) return false;
    seen.add(id);
  }
  return value.leaf === null || seen.has(value.leaf);
}

/** Puts a node after `parent` and shows it. */
export function add(conversation, parent, fields) {
  const node = { id: newId(), parent, ...fields };
  conversation.nodes[node.id] = node;
  conversation.leaf = node.id;
  conversation.updated = Date.now();
  if (!conversation.title && node.role === "user") conversation.title = titleOf(node);
  return node;
}

export function addAnswer(conversation, parent) {
  return add(conversation, parent, { role: "assistant", mode: conversation.settings.mode, reasoning: "", content: "", calls: [], finish: null,
    trouble: null, request: newId(), reasoningMs: null, firstMs: null, ms: null, usage: null, cost: null });
}

function titleOf(node) {
  const line = (node.text.trim() || node.files[0]?.name || "").split("\n")[0];
  return line.length > 60 ? `${line.slice(0, 59).trimEnd()}…` : line;
}

/** The nodes shown, first to last. */
export function path(conversation, leaf = conversation.leaf) {
  const found = [];
  for (let id = leaf; id !== null; id = conversation.nodes[id].parent) found.push(conversation.nodes[id]);
  return found.reverse();
}

/** A node and its alternatives, oldest first. */
export function siblings(conversation, node) {
  return Object.values(conversation.nodes).filter((other) => other.parent === node.parent);
}

/** Shows a node, and after it what came last. */
export function show(conversation, id) {
  for (let next = id; next; next = Object.values(conversation.nodes).filter((node) => node.parent === next).at(-1)?.id) conversation.leaf = next;
}

/** Takes away a node that has nothing after it. */
export function drop(conversation, node) {
  conversation.leaf = node.parent;
  delete conversation.nodes[node.id];
}

/** Whether nothing came of an answer. */
export const isEmpty = (node) => node.role === "assistant" && !node.reasoning && !node.content && !node.calls.length;

/** The calls of the last answer if they wait for their results. */
export function waitingCalls(conversation) {
  const last = conversation.nodes[conversation.leaf];
  return last?.role === "assistant" && last.finish === "tool_calls" ? last.calls : [];
}

/** Writes what a request for an answer took; the whole conversation's sums are those of all its branches. */
export function settle(conversation, node, { usage, cost }) {
  node.usage = usage;
  node.cost = (node.cost ?? 0) + cost;
  node.billed = node.request;
  conversation.spent.cost += cost;
  for (const name of ["hit", "miss", "output"]) conversation.spent[name] += usage[name];
}

/** Whether it isn't known yet what an answer that was cut off took. */
export function isUnsettled(node) {
  return ["stopped", "broken"].includes(node.finish) && (node.billed ? node.billed !== node.request : !node.usage);
}

/** The tools of the settings panel in the API's form. Accepts a list, or one; each with or without {"type": "function"} around it. */
export function readTools(text) {
  if (!text.trim()) return [];
  let given;
  try {
    given = JSON.parse(text);
  } catch (error) {
    throw new SyntaxError(`This isn’t JSON: ${error.message}`, { cause: error });
  }
  const names = new Set();
  return (Array.isArray(given) ? given : [given]).map((entry, i) => {
    const fn = entry?.function ?? entry, where = `Tool ${i + 1}`;
    if (typeof fn !== "object" || fn === null || (entry.type ?? "function") !== "function") throw new SyntaxError(`${where} isn’t a function.`);
    if (!/^[A-Za-z0-9_-]{1,64}$/.test(fn.name ?? "")) throw new SyntaxError(`${where}: “name” is 1 to 64 letters, digits, _ or -.`);
    if (names.has(fn.name)) throw new SyntaxError(`Two tools are called ${fn.name}.`);
    if (fn.parameters !== undefined && (typeof fn.parameters !== "object" || fn.parameters === null)) {
      throw new SyntaxError(`${fn.name}: “parameters” is a JSON schema, an object.`);
    }
    names.add(fn.name);
    const { type: _, ...bare } = fn;
    return { type: "function", function: entry.function ? fn : bare };
  });
}

/** The text of a user's turn with its files in front, in the form that DeepSeek recommends for files (the README of DeepSeek-R1). */
export function withFiles(node) {
  return node.files.map((f) => `[file name]: ${f.name}\n[file content begin]\n${f.text}\n[file content end]\n`).join("") + node.text;
}

/** The messages of the API for what is shown up to `leaf`. reasoning: with tools, earlier turns carry theirs. */
export function messages(conversation, leaf, { reasoning }) {
  const found = conversation.settings.system.trim() ? [{ role: "system", content: conversation.settings.system }] : [];
  for (const node of path(conversation, leaf)) {
    if (node.role === "user") found.push({ role: "user", content: withFiles(node) });
    else if (node.role === "tool") found.push(...node.results.map((r) => ({ role: "tool", tool_call_id: r.id, content: r.content })));
    else if (!isEmpty(node)) found.push(spoken(node, reasoning));
  }
  return found;
}

function spoken(node, reasoning) {
  const message = { role: "assistant", content: node.content };
  if (reasoning) message.reasoning_content = node.reasoning;
  if (node.finish === "tool_calls") {  // calls that were cut off aren't calls
    message.tool_calls = node.calls.map((c) => ({ id: c.id, type: "function", function: { name: c.name, arguments: c.arguments } }));
  }
  return message;
}

/** The body of the request for an answer after `leaf`. unfinished: an answer of the same place to go on with. */
export function request(conversation, leaf, model, unfinished = null) {
  const { mode, choice, temperature, topP, maxTokens, seed, tools: text } = conversation.settings;
  const tools = readTools(text);
  const asked = messages(conversation, leaf, { reasoning: tools.length > 0 });
  if (unfinished) asked.push({ role: "assistant", content: unfinished.content, reasoning_content: unfinished.reasoning, prefix: true });
  const thinking = unfinished ? unfinished.mode !== "off" : mode !== "off";
  const body = { model, messages: asked, stream: true, stream_options: { include_usage: true }, thinking: { type: thinking ? "enabled" : "disabled" } };
  if (thinking) body.reasoning_effort = (unfinished?.mode ?? mode) === "max" ? "max" : "high";
  if (tools.length) {
    body.tools = tools;
    const choices = ["auto", "none", "required"];
    if (choice !== "auto" && !unfinished && !(thinking && choice !== "none")) {
      body.tool_choice = choices.includes(choice) ? choice : { type: "function", function: { name: choice } };
    }
  }
  for (const [name, value] of Object.entries({ temperature, top_p: topP, max_tokens: maxTokens, seed })) if (value !== null) body[name] = value;
  return body;
}
