// One feature: what it makes likelier, how strongly it fires, its relatives, and examples from strong to weak.
const feature = (() => {
  const { el, compact, percent, colour, histogram, logits, line } = draw;
  const block = (title, ...body) => el("section", { class: "block" }, el("h5", {}, title), ...body);
  let colours = "h"; // histograms by source, or by mark

  function link(f, figure, tip) {
    const node = el("a", { class: "rel", href: `#${f}` }, el("b", {}, `#${f}`), el("span", { class: "toks" }, ...brief(f)), el("span", { class: "fig" }, figure));
    if (tip) node.dataset.tip = tip;
    return node;
  }
  const relatives = (title, rows, figure, tip) => rows && rows.length ? block(title, el("div", { class: "rels" }, ...rows.map((r) => link(r[0], figure(r), tip && tip(r))))) : "";

  function levels(data) {
    const node = el("section", { class: "block" });
    const paint = () => {
      const byMark = colours === "k" && data.k && data.k.sources.length;
      node.replaceChildren(el("h5", {}, "Activations"), byMark ? histogram(rest(data), [...meta.marks, "none of these"]) : histogram(data.h, meta.sources));
      if (!data.k) return;
      const buttons = el("div", { class: "switch" });
      for (const [key, name] of [["h", "by source"], ["k", "by proxy"]]) {
        const button = el("button", { type: "button", class: "chip", "aria-pressed": String(colours === key) }, name);
        button.addEventListener("click", () => { colours = key; paint(); });
        buttons.append(button);
      }
      node.append(buttons);
      if (colours === "k" && !data.k.sources.length) node.append(el("p", { class: "fine" }, "None of its tokens bears a proxy’s mark."));
    };
    paint();
    return node;
  }
  // By mark: what no mark covers is a column of its own, so that bars keep their height.
  function rest(data) {
    const bins = data.k.counts[0].length, totals = new Array(bins).fill(0);
    data.h.counts.forEach((row) => row.forEach((c, b) => { totals[b] += c; }));
    const none = totals.map((t, b) => Math.max(0, t - data.k.counts.reduce((sum, row) => sum + row[b], 0)));
    return { upper: data.k.upper, sources: [...data.k.sources, meta.marks.length], counts: [...data.k.counts, none] };
  }

  function tokens(data) {
    if (!data.t) return "";
    const table = el("table", { class: "tokens" });
    for (const [id, count, mean] of data.t) {
      const share = el("td", { class: "n" }, percent(count / data.n));
      share.style.setProperty("--share", count / data.n);
      table.append(el("tr", {}, el("td", {}, show(id)), share, el("td", { class: "n" }, compact(mean))));
    }
    return block("Fires on", el("div", { class: "scroll" }, el("table", { class: "tokens" }, el("tr", {}, el("th", {}, "token"), el("th", { class: "n" }, "share"), el("th", { class: "n" }, "mean")), ...table.children)));
  }
  function sources(data) {
    const box = el("div", { class: "rels" });
    for (const [s, r] of data.r) {
      const dot = el("i");
      dot.style.background = colour(s);
      box.append(el("span", { class: "rel" }, dot, el("span", { class: "toks" }, meta.sources[s]), el("span", { class: "fig" }, r.toFixed(2))));
    }
    return block("Correlates with", box);
  }
  function neurons(data) {
    if (!data.nn || !data.nn.length) return "";
    const name = /mlp\.hook_post$/.test(meta.hook) ? "neuron" : "component";
    return block(`Correlated ${name}s`, el("div", { class: "rels" }, ...data.nn.map(([i, r]) => el("span", { class: "rel" }, el("b", {}, String(i)), el("span", { class: "toks" }), el("span", { class: "fig" }, r.toFixed(2))))));
  }

  const unpackLine = ([source, value, rtl, focus, pieces]) => ({ source, value, rtl, focus, pieces });
  function examples(rows, max) {
    const lines = rows.map((row) => line(unpackLine(row), max, meta.sources));
    if (meta.unit === "text") lines.forEach((node, i) => node.append(el("span", { class: "fig" }, compact(rows[i][1]))));
    return lines;
  }
  function shown(data) {
    const node = el("div", { class: "examples" }, el("h5", {}, meta.unit === "text" ? "Texts on which it is strongest" : "Top activations"), ...examples(data.ex.top, data.max));
    node.append(el("h5", { class: "part" }, "Random examples from each of 11 activation intervals"));
    for (const [low, high, rows] of data.ex.iv) {
      const box = el("div", { class: "level" }, el("span", { class: "range" }, `${compact(low)} – ${compact(high)}`));
      const lines = el("div", {}, ...examples(rows, data.max));
      if (!rows.length) lines.append(el("span", { class: "fine" }, "none"));
      box.append(lines);
      node.append(box);
    }
    node.append(el("h5", { class: "part" }, `Random examples of all its active ${meta.unit}s`), ...examples(data.ex.rnd, data.max));
    return node;
  }

  function page(data) {
    const head = el("header", { class: "title" }, el("h2", {}, `#${data.f}`));
    const fact = (name, value) => head.append(el("span", { class: "meta" }, `${name} `, el("b", {}, value)));
    const side = el("div", { class: "side" });
    const weights = !data.p ? "" : el("div", { class: "logits" }, logits("Positive logits", data.p.map(([i, v]) => [word(i), v]), "up"), logits("Negative logits", data.q.map(([i, v]) => [word(i), v]), "down"));
    if (!data.n) {
      head.append(el("span", { class: "meta" }, `fired on none of the ${number(meta.tokens)} ${meta.unit}s read`));
      side.append(weights, relatives("Nearest decoder directions", data.nb, (r) => r[1].toFixed(2)));
      return [head, el("div", { class: "detail" }, side, el("div"))];
    }
    fact("fires on", `${percent(data.n / meta.tokens)} of ${meta.unit}s`);
    fact("active", `${number(data.n)} times`);
    fact("strongest", compact(data.max));
    fact("mean", compact(data.mean));
    side.append(
      weights, levels(data), tokens(data), sources(data),
      relatives("Nearest decoder directions", data.nb, (r) => r[1].toFixed(2), (r) => `cosine ${r[1]}`),
      relatives("Fires together with", data.co, (r) => r[2].toFixed(2), (r) => `on ${percent(r[1])} of its ${meta.unit}s, phi ${r[2]}`),
      relatives("Its next tokens fire", data.next, (r) => compact(r[1]), (r) => `automaton link: ${r[1]}`),
      neurons(data));
    return [head, el("div", { class: "detail" }, side, shown(data))];
  }
  return { page, link };
})();
