// The service as the pages use it: requests with the key as bearer, errors in plain words, answers as a stream. Requests go nowhere else;
// the page's security policy holds it to that.

import * as kept from "./kept.js";
import { nano } from "./figures.js";

/** What went wrong, for a person. kind: what to do about it; retryAfter: seconds, null if the service named none. */
export class Trouble extends Error {
  constructor(kind, text, { detail = "", retryAfter = null } = {}) {
    super(text);
    Object.assign(this, { kind, text, detail, retryAfter });
  }
}

const WORDS = {
  400: ["request", "The service doesn’t take this request."],
  401: ["key", "The service doesn’t know this key, or it was revoked. Give another one."],
  402: ["money", "The key’s account is used up. Whoever runs the service can add money (fathom keys top-up)."],
  408: ["again", "Sending took too long."],
  409: ["again", "This request is being answered already."],
  413: ["request", "This is more text than the service takes at once."],
  422: ["request", "The service doesn’t take a value of this request."],
  429: ["later", "This key has too many requests at the moment."],
  500: ["again", "The service has a fault; its operator’s log says more."],
  503: ["later", "The service is busy."],
};
const GONE = "The service can’t be reached. Is it running, and is this device connected?";
const BROKEN = "The connection broke off before the answer was complete.";
const SILENT_SECONDS = 60;  // the service gives a sign of life every few seconds

/** An error's body in plain words. */
export function troubleOf(status, body, headers = null) {
  const [kind, text] = WORDS[status] ?? (status >= 500 ? WORDS[500] : WORDS[400]);
  const error = body?.error ?? {};
  const after = Number(headers?.get("Retry-After") ?? NaN);
  const context = error.code === "context_length_exceeded";
  return new Trouble(context ? "long" : kind, context ? "This conversation is longer than the model’s context." : text,
    { detail: typeof error.message === "string" ? error.message : "", retryAfter: Number.isFinite(after) ? after : null });
}

async function ask(path, options = {}) {
  if (!kept.key()) throw new Trouble("key", "Give an API key first.");
  const headers = { Authorization: `Bearer ${kept.key()}`, ...(options.body ? { "Content-Type": "application/json" } : {}), ...options.headers };
  let response;
  try {
    response = await fetch(path, { ...options, headers, cache: "no-store", credentials: "omit", redirect: "error" });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Trouble("again", GONE);
  }
  if (!response.ok) throw troubleOf(response.status, await response.json().catch(() => null), response.headers);
  return response;
}

async function json(path, options) {
  try {
    return await (await ask(path, options)).json();
  } catch (error) {
    if (error instanceof Trouble || error.name === "AbortError") throw error;
    throw new Trouble("again", BROKEN);
  }
}

/** { name, context, price }: the model, its context in tokens, and its price row in nano-dollars per million tokens. */
export async function model() {
  const [found] = (await json("/models")).data;
  const { cached, input, output, row } = found.pricing;
  return { name: found.id, context: found.context_length, price: { cached: nano(cached), input: nano(input), output: nano(output), row } };
}

/** { left, available }: nano-dollars of the key's account, and whether it may ask. */
export async function balance() {
  const found = await json("/user/balance");
  return { left: nano(found.balance_infos[0].total_balance), available: found.is_available };
}

/** How many tokens a text is. */
export async function tokensOf(text, signal) {
  return (await json("/tokenize", { method: "POST", body: JSON.stringify({ prompt: text }), signal })).count;
}

/** Usage of the key's account by day, key and model over so many days. */
export const usage = (days) => json(`/user/usage?days=${days}`);

/** What an answer cost that wasn't heard to its end: { cost, usage } by its request id, null while the books are open. */
export async function receipt(id) {
  try {
    const found = await json(`/user/requests/${encodeURIComponent(id)}`);
    return { cost: nano(found.cost), usage: usageOf(found) };
  } catch {
    return null;
  }
}

export const usageOf = (found) => ({ hit: found.prompt_cache_hit_tokens, miss: found.prompt_cache_miss_tokens, output: found.completion_tokens,
  reasoning: found.completion_tokens_details?.reasoning_tokens ?? found.reasoning_tokens ?? 0 });

/** The chunks of an answer as they come, null for a sign of life. Raises Trouble, and AbortError when it is stopped. */
export async function* answer(body, id, signal) {
  const beta = body.messages.at(-1).prefix ? "/beta" : "";
  const response = await ask(`${beta}/chat/completions`, { method: "POST", body: JSON.stringify(body), signal, headers: { "X-Request-Id": id } });
  for await (const event of events(response.body, signal)) {
    if (event === "[DONE]") return;
    const chunk = event === null ? null : JSON.parse(event);
    if (chunk?.error) throw troubleOf(statusOf(chunk.error), chunk);
    yield chunk;
  }
  throw new Trouble("again", BROKEN);
}

/** An error inside a stream has no status, but its type says which it would have been. */
function statusOf(error) {
  return { authentication_error: 401, insufficient_balance: 402, rate_limit_error: 429, overloaded_error: 503, invalid_request_error: 400 }[error.type] ?? 500;
}

/** The data of server-sent events, null for each comment. */
async function* events(stream, signal) {
  const reader = stream.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  try {
    while (true) {
      const { done, value } = await heard(reader, signal);
      if (done) return;
      const lines = (rest + value).split("\n");
      rest = lines.pop();
      for (const line of lines) {
        if (line.startsWith("data:")) yield line.slice(5).trim();
        else if (line.startsWith(":")) yield null;
      }
    }
  } finally {
    reader.cancel().catch(() => {});
  }
}

async function heard(reader, signal) {
  let timer;
  const silence = new Promise((_, fail) => { timer = setTimeout(() => fail(new Trouble("again", BROKEN)), SILENT_SECONDS * 1000); });
  try {
    return await Promise.race([reader.read(), silence]);
  } catch (error) {
    if (error instanceof Trouble || signal.aborted) throw error;
    throw new Trouble("again", BROKEN);
  } finally {
    clearTimeout(timer);
  }
}
