// The figures in the page's head: context used, cost.

import { path } from "./conversation.js";
import { byId } from "./dom.js";
import { count, money, short } from "./figures.js";

/** Tokens of context that the last answer stood at. */
export function contextUsed(conversation) {
  const last = path(conversation).findLast((node) => node.usage);
  return last ? last.usage.hit + last.usage.miss + last.usage.output : 0;
}

/** Shows them; nothing before the model is known. draft: tokens of the message being written. */
export function showMeters(conversation, model, draft) {
  const meter = byId("context"), cost = byId("cost"), spent = money(conversation.spent.cost);
  meter.hidden = cost.hidden = !model;
  cost.textContent = spent;
  cost.setAttribute("aria-label", `Cost of this conversation: ${spent}. Details`);
  if (!model) return;
  const used = contextUsed(conversation), share = (n) => Math.min(100, (100 * n) / model.context);
  meter.querySelector(".used").style.width = `${share(used)}%`;
  meter.querySelector(".draft").style.width = `${Math.min(share(draft), 100 - share(used))}%`;
  meter.querySelector(".figure").textContent = `${short(used + draft)} / ${short(model.context)}`;
  meter.classList.toggle("full", used + draft > 0.9 * model.context);
  meter.setAttribute("aria-valuenow", Math.round(share(used + draft)));
  meter.setAttribute("aria-valuetext", `${used + draft} of ${model.context} tokens`);
  meter.title = `${count(used)} tokens of context used${draft ? `, ${count(draft)} more in the message` : ""}, of ${count(model.context)}`;
}
