// What this browser keeps, all of it in localStorage under "fathom.": the key, the last settings, and the conversations, each under a
// name of its own so that saving one doesn't write the others. Nothing of it is ever sent anywhere but with a request to the service.

import { isConversation } from "./conversation.js";

const KEY = "fathom.key", SETTINGS = "fathom.settings", CURRENT = "fathom.current", CHAT = "fathom.chat.";

/** Storage is full or switched off. */
export class NoRoom extends Error {}

function read(name) {
  try {
    return localStorage.getItem(name);
  } catch {
    return null;
  }
}

function write(name, text) {
  try {
    localStorage.setItem(name, text);
  } catch (error) {
    throw new NoRoom("This browser keeps no more: delete or export old conversations.", { cause: error });
  }
}

function parsed(name) {
  try {
    return JSON.parse(read(name));
  } catch {
    return null;
  }
}

export const key = () => read(KEY) ?? "";
export const keepKey = (secret) => write(KEY, secret);
export const forgetKey = () => localStorage.removeItem(KEY);

export const settings = () => parsed(SETTINGS) ?? {};
export const keepSettings = (values) => write(SETTINGS, JSON.stringify(values));

export const current = () => read(CURRENT);
export const keepCurrent = (id) => write(CURRENT, id);

export function save(conversation) {
  write(CHAT + conversation.id, JSON.stringify(conversation));
}

/** One conversation, null if it isn't there or isn't one any more. */
export function load(id) {
  const found = parsed(CHAT + id);
  return isConversation(found) ? found : null;
}

export const remove = (id) => localStorage.removeItem(CHAT + id);

/** All conversations, the last used first. */
export function all() {
  const ids = [];
  try {
    for (let i = 0; i < localStorage.length; i++) if (localStorage.key(i).startsWith(CHAT)) ids.push(localStorage.key(i).slice(CHAT.length));
  } catch {
    return [];
  }
  return ids.map(load).filter(Boolean).sort((a, b) => b.updated - a.updated);
}

/** Calls back when another tab changes a conversation or the key. */
export function onOthersChange(changed) {
  addEventListener("storage", (event) => {
    if (event.key === null || event.key === KEY) changed("key");
    if (event.key === null || event.key.startsWith(CHAT)) changed("conversation", event.key?.slice(CHAT.length));
  });
}
