// One answer under way: from the request to the last chunk, put into its node as it comes, with times and cost. No DOM here.

import * as talk from "./conversation.js";
import { costOf } from "./figures.js";
import * as service from "./service.js";

/** Runs an answer into `node`.
 *
 * Args: node: of role assistant, fresh, or with `goOn` one that was cut off.  model: of service.model().  signal: stops it.
 *   changed(what): after each change; what is "waiting", "reasoning", "content", "call" or "end".
 */
export async function run(conversation, node, model, { signal, changed, goOn = false }) {
  const turn = new Turn(conversation, node, changed);
  try {
    const body = talk.request(conversation, node.parent, model.name, goOn ? { ...node } : null);
    Object.assign(node, { finish: null, trouble: null, request: goOn ? talk.newId() : node.request });
    for await (const chunk of service.answer(body, node.request, signal)) {
      if (chunk === null) changed("waiting");
      else turn.take(chunk, model.price);
    }
    if (node.finish === null) throw new service.Trouble("again", "The answer ended without saying why.");
  } catch (error) {
    turn.fail(error, signal);
  } finally {
    turn.end();
  }
}

class Turn {
  constructor(conversation, node, changed) {
    Object.assign(this, { conversation, node, changed, began: performance.now(), first: null, reasoningFrom: null });
    this.before = { ms: node.ms ?? 0, reasoningMs: node.reasoningMs ?? 0, calls: node.calls.length };
  }

  take(chunk, price) {
    const { node } = this, choice = chunk.choices?.[0];
    const delta = choice?.delta ?? {};
    if (delta.reasoning_content) this.reasoning(delta.reasoning_content);
    if (delta.content) this.content(delta.content);
    for (const call of delta.tool_calls ?? []) this.call(call);
    if (chunk.usage) this.bill(service.usageOf(chunk.usage), price);
    if (choice?.finish_reason) node.finish = choice.finish_reason;
  }

  reasoning(text) {
    this.hear();
    this.reasoningFrom ??= performance.now();
    this.node.reasoning += text;
    this.node.reasoningMs = this.before.reasoningMs + performance.now() - this.reasoningFrom;
    this.changed("reasoning");
  }

  content(text) {
    this.hear();
    this.node.content += text;
    this.changed("content");
  }

  call({ index, id, function: fn }) {
    this.hear();
    const call = (this.node.calls[this.before.calls + index] ??= { id: "", name: "", arguments: "" });
    if (id) call.id = id;
    call.name += fn?.name ?? "";
    call.arguments += fn?.arguments ?? "";
    this.changed("call");
  }

  hear() {
    if (this.first !== null) return;
    this.first = performance.now();
    this.node.firstMs ??= this.first - this.began;
  }

  bill(usage, price) {
    const { node, conversation } = this;
    node.rate = this.first === null || usage.output < 2 ? null : ((usage.output - 1) * 1000) / Math.max(performance.now() - this.first, 1);
    talk.settle(conversation, node, { usage, cost: costOf(usage, price) });
  }

  fail(error, signal) {
    const { node } = this;
    if (signal.aborted) node.finish = "stopped";
    else if (error instanceof service.Trouble || error instanceof SyntaxError) {
      node.finish = this.first === null ? "refused" : "broken";
      node.trouble = { kind: error.kind ?? "request", text: error.text ?? error.message, detail: error.detail ?? "", retryAfter: error.retryAfter ?? null };
    } else {
      node.finish = "broken";
      node.trouble = { kind: "again", text: "This page has a fault; the browser’s console says more.", detail: "", retryAfter: null };
      throw error;
    }
  }

  end() {
    const { node } = this;
    node.ms = this.before.ms + performance.now() - this.began;
    if (node.billed !== node.request) this.settle();
    this.changed("end");
  }

  /** The cost of an answer that wasn't heard to its end, once the service has closed its books on it. */
  async settle() {
    const { node, conversation } = this;
    for (const wait of [300, 1000, 3000]) {
      await new Promise((done) => setTimeout(done, wait));
      const found = await service.receipt(node.request);
      if (!found) continue;
      talk.settle(conversation, node, found);
      this.changed("billed");
      return;
    }
  }
}
