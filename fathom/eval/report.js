// The list of items: filters, and transcripts that are built when they are opened. All text goes in as text, never as markup.
const data = JSON.parse(document.getElementById("items").textContent);
const byId = id => document.getElementById(id);
const list = byId("list"), count = byId("count"), more = byId("more");
const PAGE = 40;
let shown = PAGE;

function el(tag, text, cls) {
  const node = document.createElement(tag);
  if (text !== undefined) node.textContent = text;
  if (cls) node.className = cls;
  return node;
}

function options(select, values) {
  for (const value of values) {
    const option = el("option", value);
    option.value = value;
    select.append(option);
  }
}

function matches(item) {
  const dimension = byId("f-dimension").value, kind = byId("f-kind").value, result = byId("f-result").value;
  const text = byId("f-text").value.trim().toLowerCase();
  if (dimension && item.dimension !== dimension) return false;
  if (kind && item.kind !== kind) return false;
  if (result && state(item) !== result) return false;
  if (!text) return true;
  if (item.id.toLowerCase().includes(text) || item.detail.toLowerCase().includes(text)) return true;
  return item.turns.some(t => (t.answer || "").toLowerCase().includes(text) || t.asked.some(a => a[1].toLowerCase().includes(text)));
}

function state(item) {
  if (!item.answered) return "unanswered";
  return item.passed ? "passed" : item.score > 0 ? "partly" : "failed";
}

function transcript(item, box) {
  for (const turn of item.turns) {
    for (const [role, text] of turn.asked) {
      box.append(el("h3", role));
      box.append(el("pre", text));
    }
    if (turn.reasoning) {
      const fold = el("details");
      fold.append(el("summary", "reasoning", "soft"));
      fold.append(el("pre", turn.reasoning));
      box.append(fold);
    }
    const facts = [turn.seconds === null ? null : turn.seconds + " s", turn.finish && turn.finish !== "stop" ? "ended by " + turn.finish : null];
    const note = facts.filter(Boolean).join(", ");
    box.append(el("h3", "answer" + (note ? " (" + note + ")" : "")));
    box.append(turn.answer === null ? el("p", "no answer", "soft") : el("pre", turn.answer === "" ? "(empty)" : turn.answer));
  }
  if (!item.turns.length) box.append(el("p", "not asked yet", "soft"));
}

function row(item) {
  const node = el("details", undefined, "item"), head = el("summary");
  const mark = {passed: ["✓", "good"], partly: ["◐", "warn"], failed: ["✗", "bad"], unanswered: ["–", "soft"]}[state(item)];
  head.append(el("span", mark[0] + " ", mark[1]));
  head.append(el("b", item.id + (item.repeat ? " #" + (item.repeat + 1) : "")));
  head.append(el("span", " " + item.detail, "soft"));
  node.append(head);
  node.addEventListener("toggle", () => {
    if (node.open && node.children.length === 1) {
      const box = el("div");
      const size = item.tokens ? ", about " + item.tokens.toLocaleString("en") + " tokens" : "";
      box.append(el("p", item.dimension + ", kind " + item.kind + ", level " + item.level + ", seed " + item.seed + size + ", score " + item.score, "soft small"));
      transcript(item, box);
      node.append(box);
    }
  });
  return node;
}

function draw() {
  const found = data.filter(matches);
  list.replaceChildren(...found.slice(0, shown).map(row));
  count.textContent = found.length + " of " + data.length + " askings";
  more.hidden = found.length <= shown;
}

function kinds() {
  const select = byId("f-kind"), dimension = byId("f-dimension").value;
  while (select.options.length > 1) select.remove(1);
  options(select, [...new Set(data.filter(i => !dimension || i.dimension === dimension).map(i => i.kind))].sort());
}

options(byId("f-dimension"), [...new Set(data.map(i => i.dimension))]);
kinds();
byId("f-dimension").addEventListener("change", () => { kinds(); });
for (const id of ["f-dimension", "f-kind", "f-result", "f-text"]) {
  byId(id).addEventListener("input", () => { shown = PAGE; draw(); });
}
more.addEventListener("click", () => { shown += PAGE; draw(); });
draw();
