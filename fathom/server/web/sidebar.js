// The list of conversations: open, rename, export, delete. Deleting can be taken back for a while instead of being asked about.

import { isConversation, newId } from "./conversation.js";
import { byId, download, el, iconButton, toast } from "./dom.js";
import * as kept from "./kept.js";

/** The list. open: called with an id; gone: called when the conversation shown was deleted; renamed: with (id, title). current(): the id shown. */
export function sidebar({ open, gone, renamed, current }) {
  const list = byId("list");

  function show() {
    const rows = kept.all().map(row);
    list.replaceChildren(...rows);
    if (!rows.length) list.append(el("li", { class: "none soft" }, "Conversations appear here. They are kept in this browser."));
  }

  function row(conversation) {
    const { id } = conversation, title = conversation.title || "New chat";
    const mine = id === current();
    const name = el("button", { type: "button", class: "name", "aria-current": mine ? "page" : null, title, onclick: () => open(id), ondblclick: () => rename() }, title);
    const rename = () => renameIn(item, conversation);
    const item = el("li", { class: mine ? "current" : "", "data-id": id }, name, el("span", { class: "actions" },
      iconButton("edit", `Rename ${title}`, rename), iconButton("save", `Export ${title}`, () => exportOne(kept.load(id))),
      iconButton("trash", `Delete ${title}`, () => remove(conversation))));
    return item;
  }

  function renameIn(item, conversation) {
    const field = el("input", { type: "text", "aria-label": "Title", maxlength: 120 });
    field.value = conversation.title;
    let over = false;
    const end = (keep) => {
      if (over) return;
      over = true;
      if (keep && field.value.trim()) renamed(conversation.id, field.value.trim());
      show();
      list.querySelector(`[data-id="${conversation.id}"] .name`)?.focus();
    };
    field.addEventListener("keydown", (event) => {
      if (event.key === "Enter") end(true);
      if (event.key === "Escape") { event.stopPropagation(); end(false); }
    });
    field.addEventListener("blur", () => end(true));
    item.replaceChildren(field);
    field.focus();
    field.select();
  }

  function remove({ id }) {
    const conversation = kept.load(id);
    kept.remove(id);
    if (id === current()) gone();
    show();
    toast(`Deleted “${conversation.title || "New chat"}”.`, ["Undo", () => { kept.save(conversation); show(); open(id); }], 10);
  }

  return { show };
}

/** Keeps the conversation of an exported file, or all of them; gives their ids. Raises SyntaxError for another file, NoRoom. */
export async function importAll(file) {
  const given = JSON.parse(await file.text());
  const found = Array.isArray(given) ? given : [given];
  if (!found.length || !found.every(isConversation)) throw new SyntaxError("not conversations");
  return found.map((one) => {
    const id = kept.load(one.id) ? newId() : one.id;  // beside the one that is there, not over it
    kept.save({ ...one, id });
    return id;
  });
}

/** Saves a conversation as a file that can be imported again. */
function exportOne(conversation) {
  const name = (conversation.title || "chat").replace(/[^\p{L}\p{N}]+/gu, "-").replace(/^-|-$/g, "").slice(0, 40) || "chat";
  download(`${name}.json`, JSON.stringify(conversation, null, 1), "application/json");
}
