// A prompt: its tokens, the features on the chosen token, and on which tokens the chosen feature fires.
const prompt = (() => {
  const { el, compact, write, plain } = draw;
  let token = 1, chosen = null, now = null;

  function strength(data, f) { return data.on.map((on) => (on.find(([g]) => g === f) || [0, 0])[1]); }

  function draws(data) {
    const on = data.on[token] || [];
    if (chosen === null || !data.on.some((o) => o.some(([g]) => g === chosen))) chosen = on.length ? on[0][0] : null;
    const values = chosen === null ? data.on.map(() => 0) : strength(data, chosen), max = Math.max(...values, 1e-9);
    const text = el("div", { class: "text prompt", dir: data.rtl ? "rtl" : "ltr" });
    for (const [shown, first, end] of data.pieces) {
      const own = values.slice(first, end), value = Math.max(...own), here = token >= first && token < end;
      const tip = own.map((v, i) => `${plain(data.tokens[first + i])}  ${v || "·"}`).join("\n");
      const onclick = () => { token = here && token + 1 < end ? token + 1 : first; chosen = null; refresh(); };
      text.append(draw.token(shown, value / max, { focus: here, tip, onclick, role: "button" })); // a <button> would tear joined letters apart
    }
    const table = el("div", { class: "rels on" });
    for (const [f, value] of on) {
      const row = feature.link(f, compact(value));
      row.classList.toggle("chosen", f === chosen);
      row.addEventListener("mouseenter", () => { if (chosen !== f) { chosen = f; refresh(); } });
      table.append(row);
    }
    const where = el("h5", {}, "On ", write(el("bdi"), data.tokens[token] || ""), token ? `, token ${token}: ${on.length} features` : ": the beginning of the context is not read");
    return [text, el("p", { class: "fine" }, chosen === null ? "" : `Coloured by feature #${chosen}. ← → change the token, ↑ ↓ the feature, Enter opens it.`), where, table];
  }
  function refresh() { $("body").replaceChildren(...(choice()), ...draws(now)); }
  function choice() {
    const box = el("nav", { class: "chips prompts" });
    meta.prompts.forEach((p, i) => box.append(el("a", { class: "chip", href: `#p${i}`, "aria-pressed": String(p === now) }, p.text.length > 40 ? p.text.slice(0, 40) + "…" : p.text)));
    return [el("header", { class: "title" }, el("h2", {}, "Prompts")), box];
  }
  return {
    open(number) {
      now = meta.prompts[number];
      token = Math.max(1, now.on.findIndex((on) => on.length));
      chosen = null;
      refresh();
    },
    key(name) {
      if (name === "ArrowRight" || name === "ArrowLeft") { token = Math.min(now.on.length - 1, Math.max(0, token + (name === "ArrowRight" ? 1 : -1))); chosen = null; }
      else if (name === "Enter") { if (chosen !== null) location.hash = `#${chosen}`; return true; }
      else {
        const on = (now.on[token] || []).map(([f]) => f), at = on.indexOf(chosen) + (name === "ArrowDown" || name === "j" ? 1 : -1);
        if (on.length) chosen = on[Math.min(on.length - 1, Math.max(0, at))];
      }
      refresh();
      return true;
    },
  };
})();
