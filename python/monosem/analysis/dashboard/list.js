// The list of features: only the lines in view exist.
const list = (() => {
  const { el, colour, percent, write } = draw;
  const HEIGHT = 54;
  const box = $("list"), space = $("space");
  let found = new Int32Array(), at = 0, lines = new Map();

  function line(position) {
    const f = found[position];
    const head = el("div", { class: "head" }, el("b", {}, `#${f}`));
    if (all.count[f]) {
      const dot = el("i");
      dot.style.background = colour(all.source[f]);
      head.append(el("span", { class: "of" }, dot, `${meta.sources[all.source[f]]} ${all.r[f].toFixed(2)}`), el("span", { class: "density" }, percent(all.density[f])));
    } else head.append(el("span", { class: "of" }, "silent"));
    const says = meta.logits ? el("span", { class: "says" }, "→ ") : "";
    for (let i = 0; i < Math.min(3, all.perLogits); i++) says.append(show(all.logits[f * all.perLogits + i]));
    const node = el("a", { href: `#${f}`, class: "item", role: "option", tabindex: "-1", "aria-selected": String(position === at) }, head, el("div", { class: "what" }, ...brief(f, 3), says));
    node.style.top = position * HEIGHT + "px";
    return node;
  }
  function paint() {
    const first = Math.max(0, Math.floor(box.scrollTop / HEIGHT) - 4);
    const end = Math.min(found.length, Math.ceil((box.scrollTop + box.clientHeight) / HEIGHT) + 4);
    for (const [position, node] of lines) if (position < first || position >= end) { node.remove(); lines.delete(position); }
    for (let p = first; p < end; p++) if (!lines.has(p)) {
      const node = line(p);
      lines.set(p, node);
      space.append(node);
    }
  }
  function mark() { for (const [position, node] of lines) node.setAttribute("aria-selected", String(position === at)); }
  function reveal() {
    const top = at * HEIGHT;
    if (top < box.scrollTop) box.scrollTop = top;
    else if (top + HEIGHT > box.scrollTop + box.clientHeight) box.scrollTop = top + HEIGHT - box.clientHeight;
  }
  box.addEventListener("scroll", paint, { passive: true });
  new ResizeObserver(paint).observe(box);
  return {
    // Show these features; stay at the same feature if it is among them.
    set(features, feature) {
      found = features;
      for (const node of lines.values()) node.remove();
      lines = new Map();
      space.style.height = found.length * HEIGHT + "px";
      at = Math.max(0, found.indexOf(feature));
      if (found.indexOf(feature) >= 0) reveal(); else box.scrollTop = 0;
      paint();
    },
    // The feature now shown; marks its line if it is listed.
    go(feature) {
      const position = found[at] === feature ? at : found.indexOf(feature);
      at = position;
      if (at >= 0) reveal();
      mark();
      paint();
    },
    step(by) { return found.length ? found[Math.min(found.length - 1, Math.max(0, at + by))] : null; },
    first: () => (found.length ? found[0] : null),
    last: () => (found.length ? found[found.length - 1] : null),
    get size() { return found.length; },
    write,
  };
})();
