"use strict";
// What every page draws with: elements, tokens, charts. Text only ever enters a page through textContent.
const draw = (() => {
  const page = { bos: null }; // how the page's model shows its BOS
  const SVG = "http://www.w3.org/2000/svg"; // a name, not an address: nothing is loaded
  const el = (tag, attributes = {}, ...children) => {
    const node = document.createElement(tag);
    for (const [k, v] of Object.entries(attributes)) {
      if (typeof v === "function") node.addEventListener(k.slice(2), v); // onclick, …
      else if (v !== null && v !== undefined && v !== false) node.setAttribute(k, v);
    }
    node.append(...children);
    return node;
  };
  const svg = (tag, attributes = {}, text) => {
    const node = document.createElementNS(SVG, tag);
    for (const [k, v] of Object.entries(attributes)) node.setAttribute(k, v);
    if (text !== undefined) node.textContent = text;
    return node;
  };
  const percent = (v) => (v >= 0.1 ? (100 * v).toFixed(1) : Number((100 * v).toPrecision(2))) + " %";
  const compact = (v) => Math.abs(v) >= 1e6 ? +(v / 1e6).toPrecision(3) + "M" : Math.abs(v) >= 1e4 ? +(v / 1e3).toPrecision(3) + "k" : String(+v.toPrecision(3));
  const colour = (source) => `hsl(${(source * 137.5 + 20) % 360} var(--sat) var(--light))`;

  // ---- tooltip -------------------------------------------------------------------------------------------------
  const tip = document.getElementById("tip");
  document.addEventListener("pointermove", (event) => {
    const target = event.target.closest ? event.target.closest("[data-tip]") : null;
    tip.hidden = !target;
    if (!target) return;
    tip.textContent = target.dataset.tip;
    const x = Math.min(event.clientX + 12, innerWidth - tip.offsetWidth - 8);
    const y = event.clientY + 18 + tip.offsetHeight > innerHeight ? event.clientY - tip.offsetHeight - 10 : event.clientY + 18;
    tip.style.left = Math.max(4, x) + "px";
    tip.style.top = y + "px";
  });

  // ---- tokens --------------------------------------------------------------------------------------------------
  const MARKS = { "\n": "↵", "\r": "␍", "\t": "⇥" };
  const HIDDEN = /[\n\r\t]|[\u0000-\u0008\u000b\u000c\u000e-\u001f\u007f-\u009f\u00ad\u200b-\u200f\u202a-\u202e\u2060-\u2069\ufeff]/u;
  function write(node, text) {
    // Whitespace and control characters are shown; a token of spaces alone gets dots.
    if (text === page.bos) node.append(el("span", { class: "ghost bos" }, "¦"));
    else if (/^ +$/.test(text)) text = "·".repeat(text.length), node.append(el("span", { class: "ghost" }, text));
    else
      for (const part of text.split(new RegExp(`(${HIDDEN.source})`, "u"))) {
        if (!part) continue;
        if (!HIDDEN.test(part)) node.append(part);
        else node.append(el("span", { class: "ghost" }, MARKS[part] || "⟨" + part.codePointAt(0).toString(16).toUpperCase().padStart(2, "0") + "⟩"));
      }
    return node;
  }
  const plain = (text) => write(el("span"), text).textContent;
  // A token on the background of share = activation / maximum; style.css has the colour (.lit), token_html.py the twin.
  function token(text, share, { focus = false, tip = null, ...attributes } = {}) {
    const node = el("span", { class: `tok${share > 0 ? " lit" : ""}${focus ? " focus" : ""}`, "data-tip": tip, ...attributes });
    if (share > 0) node.style.setProperty("--v", Math.min(1, share).toFixed(2));
    return write(node, text);
  }

  // An example { source, rtl, focus, pieces: [text, value, tokens of a joint piece?] } on one line; max: full colour.
  function line(example, max, names) {
    const text = el("div", { class: "text", dir: example.rtl ? "rtl" : "ltr" });
    example.pieces.forEach(([shown, value, parts], i) => {
      const tip = parts ? parts.map(([t, v]) => `${plain(t)}  ${v || "·"}`).join("\n") : value > 0 ? `activation ${value}` : "silent";
      text.append(token(shown, value / max, { focus: i === example.focus, tip }));
    });
    return el("div", { class: "line" }, text, el("span", { class: "src", title: names[example.source] }, names[example.source]));
  }

  // ---- charts --------------------------------------------------------------------------------------------------
  function ticks(low, high, count = 4) {
    const rough = (high - low) / count || 1, power = 10 ** Math.floor(Math.log10(rough));
    const spacing = [1, 2, 5, 10].map((m) => m * power).find((s) => s >= rough);
    const out = [];
    for (let v = Math.ceil(low / spacing - 1e-9) * spacing; v <= high + spacing * 1e-6; v += spacing) out.push(Math.abs(v) < spacing * 1e-9 ? 0 : v);
    return out;
  }
  function frame(width, height, x, y, format) {
    const pad = { l: 44, r: 10, t: format.title ? 24 : 8, b: 30 };
    const root = svg("svg", { viewBox: `0 0 ${width} ${height}`, role: "img" });
    const sx = (v) => pad.l + ((v - x.low) / (x.high - x.low || 1)) * (width - pad.l - pad.r);
    const sy = (v) => height - pad.b - ((v - y.low) / (y.high - y.low || 1)) * (height - pad.t - pad.b);
    for (const v of y.ticks) {
      root.append(svg("line", { class: "gridline", x1: pad.l, x2: width - pad.r, y1: sy(v), y2: sy(v) }));
      root.append(svg("text", { x: pad.l - 6, y: sy(v) + 4, "text-anchor": "end" }, (format.y || compact)(v)));
    }
    root.append(svg("line", { class: "axis", x1: pad.l, x2: width - pad.r, y1: sy(y.low), y2: sy(y.low) }));
    for (const v of x.ticks) root.append(svg("text", { x: sx(v), y: height - pad.b + 15, "text-anchor": "middle" }, (format.x || compact)(v)));
    if (format.title) root.append(svg("text", { x: 4, y: 11 }, format.title));
    if (format.label) root.append(svg("text", { x: width - pad.r, y: height - 2, "text-anchor": "end" }, format.label));
    return { root, sx, sy };
  }
  const tenth = (v) => (v >= 0 ? "1" : v >= -2 ? String(+(10 ** v).toPrecision(1)) : "1e" + v);

  function logTicks(low, high) {
    const out = [];
    for (let d = Math.floor(low); d <= Math.ceil(high); d++)
      for (const m of high - low > 2.2 ? [1] : [1, 2, 5]) {
        const v = d + Math.log10(m);
        if (v >= low - 1e-9 && v <= high + 1e-9) out.push(v);
      }
    return out;
  }

  // A histogram { upper, sources, counts } of activations, its columns coloured by source; names[source].
  function histogram({ upper, sources, counts }, names) {
    if (!counts.length || !counts[0].length) return el("div");
    const bins = counts[0].length, main = sources.slice(0, 5);
    const totals = counts[0].map((_, b) => counts.reduce((sum, row) => sum + row[b], 0));
    const sums = counts.map((row) => row.reduce((a, b) => a + b, 0)), every = sums.reduce((a, b) => a + b, 0) || 1;
    const top = Math.max(...totals);
    const { root, sx, sy } = frame(310, 130, { low: 0, high: upper, ticks: ticks(0, upper, 4) }, { low: 0, high: top, ticks: ticks(0, top, 2) }, {});
    for (let b = 0; b < bins; b++) {
      let base = 0;
      const group = svg("g");
      const a = (b / bins) * upper, z = ((b + 1) / bins) * upper;
      const tips = [];
      const stack = main.map((s, i) => [counts[i][b], colour(s), names[s]]);
      stack.push([totals[b] - stack.reduce((t, [c]) => t + c, 0), "var(--soft)", "other"]);
      for (const [c, fill, name] of stack) {
        if (!c) continue;
        group.append(svg("rect", { x: sx(a) + 0.3, width: Math.max(0.5, sx(z) - sx(a) - 0.6), y: sy(base + c), height: sy(base) - sy(base + c), style: `fill:${fill}` }));
        tips.push(`${name} ${c}`);
        base += c;
      }
      group.dataset.tip = `activation ${compact(a)} to ${compact(z)}\n` + tips.join("\n");
      if (base) root.append(group);
    }
    const legend = el("div", { class: "legend" });
    main.forEach((s, i) => {
      const share = sums[i] / every;
      if (i && share < 0.01) return;
      const mark = el("i");
      mark.style.background = colour(s);
      legend.append(el("span", {}, mark, `${names[s]} ${percent(share)}`));
    });
    return el("div", {}, root, legend);
  }

  function logits(title, rows, kind) {
    const most = Math.max(...rows.map(([, w]) => Math.abs(w)), 1e-9);
    const items = el("ol", { class: kind });
    for (const [token, weight] of rows) {
      const bar = el("i");
      bar.style.width = (100 * Math.abs(weight)) / most + "%";
      items.append(el("li", {}, bar, write(el("bdi"), token), el("span", {}, (weight > 0 ? "+" : "") + weight.toFixed(2))));
    }
    return el("div", {}, el("h5", {}, title), items);
  }

  return { page, el, svg, percent, compact, colour, write, plain, token, ticks, frame, tenth, logTicks, line, histogram, logits };
})();
