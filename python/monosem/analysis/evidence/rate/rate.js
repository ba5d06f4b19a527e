"use strict";
const study = JSON.parse(document.getElementById("data").textContent);
const at = (id) => document.getElementById(id);

const store = `monosem-rate-${study.study}`;
let kept = { answers: {}, annotator: "", current: 1 };
let current = 1;   // the item shown, from 1
let step = 0;      // the step that a digit answers
const logitsStep = study.steps.find((s) => s.name === "logits");

function say(text) { at("note").textContent = text; }
function answer(number = current) { return (kept.answers[number] ??= {}); }
function asked(given) {
  const perfect = given.logits === logitsStep.words.length - 1;
  return study.steps.filter((s) => !(s.name === "separation" && perfect));
}
function points(given) {
  const open = asked(given).filter((s) => given[s.name] == null);
  return open.length ? null : asked(given).reduce((sum, s) => sum + given[s.name], 0);
}
function state(given) {
  if (!given) return "";
  if (points(given) !== null) return "done";
  return given.hypothesis || study.steps.some((s) => given[s.name] != null) ? "some" : "";
}

function keep() {
  kept.current = current;
  kept.saved = new Date().toISOString();
  try { localStorage.setItem(store, JSON.stringify(kept)); }
  catch { say("This browser keeps nothing for a page opened from disk: save to a file before you leave."); }
}

// Only what this page itself could have written is taken: other fields are left behind.
function accept(read) {
  if (!read || typeof read.answers !== "object" || read.study !== study.study) {
    throw new Error("This file belongs to another study.");
  }
  const answers = {};
  for (const [number, given] of Object.entries(read.answers)) {
    if (!study.items[number - 1] || !given || typeof given !== "object") continue;
    const own = {};
    if (typeof given.hypothesis === "string") own.hypothesis = given.hypothesis;
    for (const s of study.steps) {
      if (Number.isInteger(given[s.name]) && given[s.name] >= 0 && given[s.name] < s.words.length) own[s.name] = given[s.name];
    }
    own.fits = {};
    for (let i = 1; i <= study.intervals; i++) if (typeof given.fits?.[i] === "boolean") own.fits[i] = given.fits[i];
    answers[number] = own;
  }
  kept = { answers, annotator: String(read.annotator ?? ""), current: Number(read.current) || 1 };
  current = Math.min(Math.max(1, kept.current), study.items.length);
}

function saved() {
  return JSON.stringify({ format: study.format, study: study.study, ...kept, annotator: at("annotator").value }, null, 1);
}

// ------------------------------------------------------------------ what is seen
function snippet(line) {
  const token = ([text, share], i) => draw.token(text, share, { focus: i === line.focus, tip: `${Math.round(share * 100)} %` });
  return draw.el("div", { class: "snip", dir: line.rtl ? "rtl" : "ltr" }, ...line.pieces.map(token));
}

function showItem() {
  const item = study.items[current - 1];
  at("title").textContent = `Item ${current} of ${study.items.length}`;
  at("positive").replaceChildren(...item.positive.map(([token, share]) => {
    const bar = draw.el("i");
    bar.style.width = `${100 * share}%`;
    return draw.el("li", { title: `${Math.round(100 * share)} % of the largest` }, bar, draw.write(draw.el("bdi"), token));
  }));
  at("intervals").replaceChildren(...item.intervals.map((lines, n) => {
    const number = study.intervals - n;
    const range = `${number}: ${Math.round((100 * (number - 1)) / study.intervals)} to ${Math.round((100 * number) / study.intervals)} % of the maximum`;
    const mark = (value, text) => draw.el("button", {
      type: "button", "data-fit": `${number}-${value}`,
      onclick: () => { const f = (answer().fits ??= {}); f[number] === value ? delete f[number] : (f[number] = value); keep(); showAnswer(); },
    }, text);
    const head = draw.el("header", {}, draw.el("span", {}, range));
    if (lines.length) head.append(mark(true, "holds"), mark(false, "does not"));
    return draw.el("div", { class: "interval" }, head, ...(lines.length ? lines.map(snippet) : [draw.el("p", { class: "fine" }, "no example")]));
  }));
}

// ------------------------------------------------------------------ what is answered
at("steps").append(...study.steps.map((s, n) => draw.el("div", { class: "step", id: `step-${s.name}` },
  draw.el("div", { class: "q" }, draw.el("b", {}, String(n + 2)), s.question), draw.el("p", {}, s.help),
  draw.el("div", { class: "row" }, ...s.words.map((word, value) => draw.el("button", {
    type: "button", "data-value": value, onclick: () => set(s, value),
  }, String(value), draw.el("small", {}, word)))))));

function set(s, value) {
  answer()[s.name] = value;
  const list = asked(answer());
  const next = list.findIndex((one) => answer()[one.name] == null);
  step = next >= 0 ? next : list.indexOf(s);
  keep();
  showAnswer();
  follow();
}

function showAnswer() {
  const given = answer();
  const list = asked(given);
  step = Math.min(step, list.length - 1);
  if (at("hypothesis").value !== (given.hypothesis ?? "")) at("hypothesis").value = given.hypothesis ?? "";
  for (const s of study.steps) {
    const box = at(`step-${s.name}`);
    box.hidden = !list.includes(s);
    box.classList.toggle("current", list[step] === s);
    box.querySelectorAll("button").forEach((b) => b.setAttribute("aria-pressed", String(given[s.name] === Number(b.dataset.value))));
  }
  document.querySelectorAll("[data-fit]").forEach((b) => {
    const [number, value] = b.dataset.fit.split("-");
    b.setAttribute("aria-pressed", String(String(given.fits?.[number]) === value));
  });
  const sum = points(given);
  at("points").textContent = sum === null ? "– of 14 points" : `${sum} of 14 points`;
  const done = study.items.filter((_, i) => state(kept.answers[i + 1]) === "done").length;
  at("progress").textContent = `${done} of ${study.items.length} rated`;
  [...at("items").children].forEach((b, i) => {
    b.className = state(kept.answers[i + 1]);
    b.setAttribute("aria-current", String(i + 1 === current));
  });
}

function follow() { document.querySelector(".step.current")?.scrollIntoView({ block: "nearest" }); }

function go(number) {
  if (number < 1 || number > study.items.length) return;
  current = number;
  const open = asked(answer()).findIndex((s) => answer()[s.name] == null);
  step = Math.max(0, open);
  keep();
  showItem();
  showAnswer();
  scrollTo(0, 0);
  at("form").scrollTop = 0;
}

function nothing() {
  for (const s of study.steps) answer()[s.name] = 0;
  keep();
  showAnswer();
}

at("items").append(...study.items.map((_, i) => draw.el("button", { type: "button", onclick: () => go(i + 1) }, String(i + 1))));
at("hypothesis").addEventListener("input", () => { answer().hypothesis = at("hypothesis").value; keep(); showAnswer(); });
at("annotator").addEventListener("input", () => { kept.annotator = at("annotator").value; keep(); });
at("none").addEventListener("click", nothing);
at("back").addEventListener("click", () => go(current - 1));
at("on").addEventListener("click", () => go(current + 1));
at("save").addEventListener("click", () => {
  const link = draw.el("a", { href: URL.createObjectURL(new Blob([saved()], { type: "application/json" })), download: `answers-${study.study}.json` });
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 1000);
  say("Saved. When all is rated: monosem rate --score FILE");
});
at("load").addEventListener("change", async (event) => {
  const [file] = event.target.files;
  event.target.value = "";
  if (!file) return;
  try {
    accept(JSON.parse(await file.text()));
    at("annotator").value = kept.annotator;
    say(`Loaded ${Object.keys(kept.answers).length} answers.`);
    go(current);
  } catch (error) { say(`Not loaded: ${error.message}`); }
});
document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  if (event.target.matches("textarea, input")) { if (event.key === "Escape") event.target.blur(); return; }
  const list = asked(answer());
  const digit = Number(event.key);
  if (/^\d$/.test(event.key) && digit < list[step].words.length) set(list[step], digit);
  else if (event.key === "ArrowRight") go(current + 1);
  else if (event.key === "ArrowLeft") go(current - 1);
  else if (event.key === "ArrowDown" || event.key === "ArrowUp") {
    step = Math.min(Math.max(0, step + (event.key === "ArrowDown" ? 1 : -1)), list.length - 1);
    showAnswer();
    follow();
  } else if (event.key === "n") nothing();
  else if (event.key === "h") at("hypothesis").focus();
  else return;
  event.preventDefault();
});

try {
  const before = JSON.parse(localStorage.getItem(store) ?? "null");
  if (before) accept({ ...before, study: study.study });
} catch { say("What this browser had kept could not be read; load the file you saved."); }
at("annotator").value = kept.annotator;
go(current);
