// A list of very many features, one line each; only the lines in view exist. ``line(i)`` fills a line, ``pick(i)`` is
// called for a click or a key, ``over(i)`` for the line under the pointer (-1: none).
function featureList(box, order, line, pick, over) {
  const HEIGHT = 22, space = box.firstElementChild, lines = new Map(), place = new Map(order.map((f, at) => [f, at]));
  let rows = order, chosen = -1;
  function paint() {
    const first = Math.max(0, Math.floor(box.scrollTop / HEIGHT) - 5);
    const end = Math.min(rows.length, Math.ceil((box.scrollTop + box.clientHeight) / HEIGHT) + 5);
    for (const [at, node] of lines) if (at < first || at >= end) { node.remove(); lines.delete(at); }
    for (let at = first; at < end; at++) if (!lines.has(at)) {
      const node = document.createElement('div'), f = rows[at];
      node.className = 'item';
      node.setAttribute('role', 'option');
      node.setAttribute('aria-selected', f === chosen);
      node.style.top = `${at * HEIGHT}px`;
      node.onclick = () => pick(f);
      node.onmouseenter = () => over(f);
      line(node, f);
      lines.set(at, node);
      space.append(node);
    }
  }
  function renew() {
    for (const node of lines.values()) node.remove();
    lines.clear();
    space.style.height = `${rows.length * HEIGHT}px`;
    paint();
  }
  box.addEventListener('scroll', paint, { passive: true });
  box.addEventListener('mouseleave', () => over(-1));
  box.addEventListener('keydown', e => {
    const step = { ArrowDown: 1, ArrowUp: -1, PageDown: 10, PageUp: -10 }[e.key];
    if (!step || !rows.length) return;
    e.preventDefault();
    pick(rows[Math.min(rows.length - 1, Math.max(0, place.has(chosen) ? place.get(chosen) + step : 0))]);
  });
  new ResizeObserver(paint).observe(box);
  return {
    renew,
    only(shown) { // list these alone
      rows = order.filter(shown);
      place.clear();
      rows.forEach((f, at) => place.set(f, at));
      renew();
    },
    choose(f) { // mark a line and bring it into view
      chosen = f;
      const at = place.get(f);
      if (at !== undefined && (at * HEIGHT < box.scrollTop || (at + 1) * HEIGHT > box.scrollTop + box.clientHeight)) box.scrollTop = (at + .5) * HEIGHT - box.clientHeight / 2;
      paint();
      for (const [row, node] of lines) node.setAttribute('aria-selected', rows[row] === f);
    },
  };
}
