// The box at the foot: text, attached files, reasoning mode, send and stop. It hands over { text, files }; what becomes of it isn't its
// business.

import { MODES } from "./conversation.js";
import { byId, el, iconButton, toast } from "./dom.js";
import { short, tokens } from "./figures.js";
import * as service from "./service.js";

const LARGEST = 8 * 2 ** 20;  // bytes of a file; a longer one is beyond any context
const PAUSE = 500;  // ms without typing before the draft is counted

/** The composer. send: called with { text, files }; stop: called without; mode: called with the chosen one; counted: with the draft's tokens. */
export function composer({ send, stop, mode, counted }) {
  const form = byId("composer"), area = byId("prompt"), list = byId("files"), input = byId("file-input");
  let files = [], busy = false, timer = null, counting = null;
  const total = () => files.reduce((sum, f) => sum + (f.tokens ?? 0), 0);

  function grow() {
    area.style.height = "auto";
    area.style.height = `${area.scrollHeight + 2}px`;
    byId("send").disabled = busy || !(area.value.trim() || files.length) || files.some((f) => f.reading);
  }

  function recount() {
    clearTimeout(timer);
    counting?.abort();
    const text = area.value;
    if (!text.trim()) return say(0);
    timer = setTimeout(async () => {
      counting = new AbortController();
      const n = await service.tokensOf(text, counting.signal).catch(() => null);
      if (n !== null && area.value === text) say(n);
    }, PAUSE);
  }

  function say(typed) {
    const n = typed + total();
    byId("draft").textContent = n ? tokens(n) : "";
    counted(n);
  }

  function submit(event) {
    event?.preventDefault();
    if (byId("send").disabled) return;
    send({ text: area.value.trim(), files: files.map(({ name, text, tokens: n }) => ({ name, text, tokens: n })) });
  }

  function clear() {
    area.value = "";
    files = [];
    show();
  }

  function show() {
    list.replaceChildren(...files.map((file) => el("li", { class: file.reading ? "chip reading" : "chip" }, el("span", { class: "name" }, file.name),
      el("span", { class: "soft" }, file.reading ? "counting…" : file.tokens === null ? `${short(file.text.length)} characters` : tokens(file.tokens)),
      iconButton("close", `Remove ${file.name}`, () => { files = files.filter((f) => f !== file); show(); area.focus(); }))));
    grow();
    recount();
  }

  async function attach(chosen) {
    for (const blob of chosen) {
      try {
        const file = { name: blob.name, text: await textOf(blob), tokens: null, reading: true };
        files.push(file);
        show();
        file.tokens = await service.tokensOf(file.text).catch((error) => { toast(error.text ?? String(error)); return null; });
        file.reading = false;
        show();
      } catch (error) {
        toast(`${blob.name}: ${error.message}`);
      }
    }
    input.value = "";
  }

  form.addEventListener("submit", submit);
  area.addEventListener("input", () => { grow(); recount(); });
  area.addEventListener("keydown", (event) => {
    if (event.key === "Enter" && !event.shiftKey && !event.isComposing) submit(event);
  });
  byId("attach").addEventListener("click", () => input.click());
  byId("stop").addEventListener("click", stop);
  input.addEventListener("change", () => attach([...input.files]));
  area.addEventListener("paste", (event) => {
    const given = [...event.clipboardData.files];
    if (given.length) { event.preventDefault(); attach(given); }
  });
  acceptDrops(attach);
  for (const [value, label] of Object.entries(MODES)) {
    byId("mode").append(el("label", {}, el("input", { type: "radio", name: "mode", value, onchange: () => mode(value) }), el("span", {}, label)));
  }
  grow();

  return {
    clear,
    focus: () => area.focus(),
    isEmpty: () => !area.value && !files.length,
    fill: (text) => { area.value = text; grow(); recount(); area.focus(); },
    setMode: (value) => { form.querySelector(`input[value="${value}"]`).checked = true; },
    setBusy(now) {
      const focused = document.activeElement === byId("stop");
      busy = now;
      byId("stop").hidden = !now;
      byId("send").hidden = now;
      grow();
      if (focused && !now) area.focus();
    },
  };
}

function acceptDrops(attach) {
  const has = (event) => event.dataTransfer?.types.includes("Files");
  addEventListener("dragover", (event) => {
    if (!has(event)) return;
    event.preventDefault();
    document.body.classList.add("dropping");
  });
  addEventListener("dragleave", (event) => { if (!event.relatedTarget) document.body.classList.remove("dropping"); });
  addEventListener("drop", (event) => {
    document.body.classList.remove("dropping");
    if (!has(event)) return;
    event.preventDefault();
    attach([...event.dataTransfer.files]);
  });
}

/** A file's text. Raises Error for one that isn't text. */
export async function textOf(blob) {
  if (blob.size > LARGEST) throw new Error(`${short(blob.size)}B is more than a model can read at once.`);
  const bytes = new Uint8Array(await blob.arrayBuffer());
  const utf16 = (bytes[0] === 0xff && bytes[1] === 0xfe) ? "utf-16le" : (bytes[0] === 0xfe && bytes[1] === 0xff) ? "utf-16be" : null;
  let text;
  try {
    text = new TextDecoder(utf16 ?? "utf-8", { fatal: true }).decode(bytes);
  } catch {
    throw new Error("isn’t a text file, or not in UTF-8.");
  }
  if (text.includes("\0")) throw new Error("isn’t a text file.");
  if (!text) throw new Error("is empty.");
  return text;
}
