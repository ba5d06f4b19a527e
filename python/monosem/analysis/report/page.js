"use strict";
// Draws the report from the JSON beside it. Text only ever enters the page through textContent.
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const $ = (id) => document.getElementById(id);
  const { el, svg, percent, compact, colour, write, ticks, frame, tenth, logTicks, histogram, logits } = draw;
  draw.page.bos = data.bos;

  const line = (example, max) => draw.line(example, max, data.sources);

  // ---- charts --------------------------------------------------------------------------------------------------
  function curve(name, xs, ys, format, log) {
    const points = xs.map((x, i) => [x, ys[i]]).filter(([x, y]) => x !== null && y !== null && (!log || y > 0)).map(([x, y]) => [x, log ? Math.log10(y) : y]);
    if (points.length < 2) return null;
    let low = Math.min(...points.map((p) => p[1])), high = Math.max(...points.map((p) => p[1]));
    if (!log) low = Math.min(0, low);
    if (high === low) high = low + 1;
    const x = { low: points[0][0], high: points[points.length - 1][0] };
    x.ticks = ticks(x.low, x.high, 4);
    const y = { low, high };
    y.ticks = log ? logTicks(low, high) : ticks(low, high, 4);
    const { root, sx, sy } = frame(400, 210, x, y, { y: log ? (v) => compact(10 ** v) : format, label: "tokens" });
    root.append(svg("path", { class: "curve", d: "M" + points.map(([a, b]) => sx(a).toFixed(1) + " " + sy(b).toFixed(1)).join("L") }));
    const last = points[points.length - 1];
    root.append(svg("circle", { cx: sx(last[0]), cy: sy(last[1]), r: 3, fill: "var(--plot)" }));
    const show = format || compact;
    points.forEach(([a, b], i) => {
      const from = i ? (sx(points[i - 1][0]) + sx(a)) / 2 : sx(a), to = i + 1 < points.length ? (sx(points[i + 1][0]) + sx(a)) / 2 : sx(a);
      const hit = svg("rect", { x: from, y: 0, width: Math.max(0.5, to - from), height: 180, fill: "transparent" });
      hit.dataset.tip = `${compact(a)} tokens: ${show(log ? 10 ** b : b)}`;
      root.append(hit);
    });
    return el("figure", {}, el("figcaption", {}, `${name}, at the end ${show(log ? 10 ** last[1] : last[1])}`), root);
  }
  function densityChart() {
    const edges = data.evaluation.density_edges, counts = data.evaluation.density_counts;
    const top = Math.max(0, ...counts);
    if (!top) return;
    const x = { low: edges[0], high: edges[edges.length - 1], ticks: edges.filter((v) => Math.abs(v - Math.round(v)) < 1e-9).map(Math.round) };
    const { root, sx, sy } = frame(460, 300, x, { low: 0, high: top, ticks: ticks(0, top) }, { x: tenth, title: "features", label: "share of tokens, log scale" });
    counts.forEach((c, i) => {
      if (!c) return;
      const bar = svg("rect", { class: "bar", x: sx(edges[i]) + 0.5, width: Math.max(1, sx(edges[i + 1]) - sx(edges[i]) - 1), y: sy(c), height: sy(0) - sy(c) });
      bar.dataset.tip = `${c} features fire on ${percent(10 ** edges[i])} to ${percent(10 ** edges[i + 1])} of tokens`;
      root.append(bar);
    });
    $("density").append(root);
  }

  function scatter(shown) {
    const { count, source, r, tokens } = data.overview;
    const lows = count.filter((c) => c > 0).map((c) => Math.log10(c / tokens));
    if (!lows.length) return; // the template has no place for it then
    let low = 0; for (const v of lows) low = Math.min(low, v);
    low = Math.floor(low);
    const x = { low, high: 0, ticks: [...Array(-low + 1).keys()].map((i) => low + i) };
    const { root, sx, sy } = frame(690, 400, x, { low: 0, high: 1, ticks: [0, 0.2, 0.4, 0.6, 0.8, 1] }, { x: tenth, title: "correlation with the best source", label: "share of tokens, log scale" });
    const back = svg("g"), front = svg("g");
    count.forEach((c, f) => {
      if (!c) return;
      const dot = svg("circle", { class: "dot", cx: sx(Math.log10(c / tokens)).toFixed(1), cy: sy(Math.max(0, r[f])).toFixed(1), r: shown.has(f) ? 4 : 2.6, style: `fill:${colour(source[f])}` });
      dot.dataset.tip = `#${f} · fires on ${percent(c / tokens)} of tokens\n${data.sources[source[f]]}: r = ${r[f]}`;
      if (!shown.has(f)) return back.append(dot);
      const link = svg("a", { href: "#f" + f });
      link.append(dot);
      front.append(link);
    });
    root.append(back, front);
    $("scatter").append(root);
  }

  function tokens(card) {
    // The tokens on which it fires, by share: one token means a token feature, many mean a context feature.
    const node = el("span", { class: "meta words" }, card.tokens[0][1] >= 0.1 ? "mostly on " : "on many tokens: ");
    for (const [token, share] of card.tokens) {
      const word = write(el("bdi"), token);
      word.dataset.tip = `${percent(share)} of the tokens on which it fires`;
      node.append(word, share >= 0.1 ? ` ${Math.round(100 * share)} % ` : " ");
    }
    return node;
  }

  // ---- cards ---------------------------------------------------------------------------------------------------
  function drawCard(card) {
    const head = el("header", {},
      el("h4", {}, el("a", { href: "#f" + card.feature }, `Feature ${card.feature}`)),
      el("span", { class: "meta" }, "best with ", el("b", {}, card.best.label), `, r = ${card.best.r.toFixed(2)}`),
      el("span", { class: "meta" }, `fires on ${percent(card.density)} of tokens`),
      el("span", { class: "meta" }, `strongest ${card.max}`),
      tokens(card));
    const side = el("div", {},
      el("div", { class: "logits" }, logits("Positive logits", card.positive, "up"), logits("Negative logits", card.negative, "down")),
      card.histogram.counts.length ? el("div", {}, el("h5", {}, "Activations, by source"), histogram(card.histogram, data.sources)) : "");
    const examples = el("div", { class: "examples" }, el("h5", {}, "Top activations"));
    card.top.forEach((e) => examples.append(line(e, card.max)));
    const more = el("details", {}, el("summary", {}, "Random examples by activation interval"));
    more.addEventListener("toggle", () => {
      if (!more.open || more.childElementCount > 1) return;
      for (const { low, high, examples: found } of card.intervals) {
        const box = el("div", { class: "interval" }, el("h5", {}, `activation ${compact(low)} to ${compact(high)}` + (found.length ? "" : ": none in the sample")));
        found.forEach((e) => box.append(line(e, card.max)));
        more.append(box);
      }
    });
    examples.append(more);
    return el("article", { class: "card", id: "f" + card.feature }, head, el("div", { class: "body" }, side, examples));
  }

  const byFeature = new Map(data.cards.map((c) => [c.feature, c]));
  const boxes = [];
  let at = 0;
  data.groups.forEach((group) => {
    const box = el("div", {}, el("div", { class: "group" }, el("h3", {}, group.title), el("span", { class: "fine" }, group.note)));
    const own = data.cards.slice(at, (at += group.count)).map((card) => {
      const words = [...card.positive.map(([t]) => t), ...card.top.flatMap((e) => e.pieces.map(([t]) => t).join("")), card.best.label, ...card.shares.slice(0, 3).map(([s]) => data.sources[s])];
      const node = drawCard(card);
      box.append(node);
      return { node, text: words.join("\u0001").toLowerCase(), number: String(card.feature) };
    });
    boxes.push({ box, own, title: group.title });
    $("cards").append(box);
  });

  let chosen = null;
  function filter() {
    const query = $("search").value.trim().toLowerCase();
    let seen = 0;
    boxes.forEach(({ box, own }, i) => {
      let here = 0;
      for (const { node, text, number } of own) {
        const fits = (chosen === null || chosen === i) && (query.startsWith("#") ? number === query.slice(1) : text.includes(query) || number === query);
        node.hidden = !fits;
        here += fits;
      }
      box.hidden = !here;
      seen += here;
    });
    $("count").textContent = seen === data.cards.length ? "" : `${seen} of ${data.cards.length} features`;
  }
  boxes.forEach(({ title }, i) => {
    const chip = el("button", { class: "chip", type: "button", "aria-pressed": "false" }, title);
    chip.addEventListener("click", () => {
      chosen = chosen === i ? null : i;
      [...$("groups").children].forEach((c, j) => c.setAttribute("aria-pressed", String(j === chosen)));
      filter();
    });
    $("groups").append(chip);
  });
  if (boxes.length) $("search").addEventListener("input", filter);
  addEventListener("hashchange", () => {
    const card = byFeature.get(Number(location.hash.slice(2)));
    const node = card && $(location.hash.slice(1));
    if (!node || !node.hidden) return;
    $("search").value = "";
    chosen = null;
    [...$("groups").children].forEach((c) => c.setAttribute("aria-pressed", "false"));
    filter();
    node.scrollIntoView();
  });

  data.labels.forEach((label) => {
    const card = byFeature.get(label.feature);
    const panel = el("article", { class: "panel" },
      el("header", {}, el("h3", {}, label.label), el("a", { href: "#f" + label.feature }, `feature ${label.feature}`), el("span", { class: "r" }, `r = ${label.correlation.toFixed(2)}`)),
      el("p", {}, `${percent(label.precision)} of its active tokens are ${label.label} (base rate ${percent(label.base_rate)}).`));
    if (card) card.top.slice(0, 3).forEach((e) => panel.append(line(e, card.max)));
    $("panels").append(panel);
  });
  scatter(new Set(byFeature.keys()));
  densityChart();
  if (data.curves) {
    const xs = data.curves.tokens || data.curves.step, c = data.curves;
    const share = (v) => +(100 * v).toPrecision(3) + " %";
    for (const chart of [
      c.loss && curve("Loss (log scale)", xs, c.loss, null, true),
      c.l0 && curve("Active features per token", xs, c.l0),
      c.dead && curve("Dead features", xs, c.dead, share),
      c.mse && c.loss && c.mse.some((v, i) => v !== null && Math.abs(v - c.loss[i]) > 1e-3 * Math.abs(v)) && curve("Mean squared error (log scale)", xs, c.mse, null, true),
    ]) if (chart) $("curves").append(chart);
  }
})();
