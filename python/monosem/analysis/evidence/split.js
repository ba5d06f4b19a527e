const data = JSON.parse(document.getElementById('map-data').textContent);
const browsers = JSON.parse(document.getElementById('browsers')?.textContent || '{}');
const canvas = document.getElementById('map'), tip = document.getElementById('map-tip');
const chosenBox = document.getElementById('map-chosen'), keys = document.getElementById('map-keys');
const pen = canvas.getContext('2d'), count = data.x.length;
const family = new Set(data.family), links = new Map();
for (const [a, b, cosine] of data.edges) for (const [from, to] of [[a, b], [b, a]]) {
  if (!links.has(from)) links.set(from, []);
  links.get(from).push([to, cosine]);
}
const members = new Map(); // cluster → its dots
data.cluster.forEach((c, i) => { if (c >= 0) members.has(c) ? members.get(c).push(i) : members.set(c, [i]); });
let mode = 'dictionary', hidden = new Set(), chosen = data.family.length ? data.family[0] : -1, hover = -1;
let scale = 1, left = 0, top = 0;
const css = name => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
const el = (tag, text, cls) => { const e = document.createElement(tag); if (text != null) e.textContent = text; if (cls) e.className = cls; return e; };

// ---- colours: by dictionary, by the source that a feature fires on most, by density
const bySource = [...data.source.reduce((m, s) => m.set(s, (m.get(s) || 0) + 1), new Map())].sort((a, b) => b[1] - a[1]).map(e => e[0]);
const hue = s => `hsl(${(bySource.indexOf(s) * 137.5) % 360} ${css('--sat') || '60%'} ${css('--light') || '50%'})`;
// Neighbouring numbers are neighbouring clusters: the golden angle keeps their hues apart.
const ofCluster = c => c < 0 ? 'transparent' : `hsl(${(c * 137.5) % 360} 65% ${css('--light') || '50%'})`;
const lowest = Math.min(...data.density), highest = Math.max(...data.density);
let palette = [];
function colours() {
  if (mode === 'dictionary') {
    const level = data.names.map((_, i) => css(`--s${[1, 0, 2, 3, 4, 6, 7, 5][i % 8]}`));
    palette = data.level.map(l => level[l]);
    legend(data.names.map((n, i) => [n, level[i]]));
  } else if (mode === 'source') {
    const of = new Map(bySource.map(s => [s, hue(s)]));
    palette = data.source.map(s => of.get(s));
    legend(bySource.map(s => [data.sources[s], of.get(s)]));
  } else if (mode === 'cluster') {
    palette = data.cluster.map(c => c < 0 ? css('--line') : ofCluster(c));
    legend([[`${members.size.toLocaleString('en')} clusters, each in a colour`, ofCluster(0)], ['in no cluster', css('--line')]]);
  } else {
    const shade = d => `hsl(${250 - 210 * (d - lowest) / (highest - lowest || 1)} 70% ${css('--light') || '50%'})`;
    palette = data.density.map(shade);
    legend([lowest, (lowest + highest) / 2, highest].map(d => [`fires on ${(100 * 10 ** d).toPrecision(2)} % of tokens`, shade(d)]));
  }
}
function legend(rows) {
  keys.replaceChildren(...rows.map(([name, colour]) => {
    const key = el('span'), dot = el('i');
    dot.style.background = colour;
    key.append(dot, name);
    return key;
  }));
}

// ---- drawing
// A margin of a hundredth keeps the outermost dots whole.
const px = i => left + (.01 + .98 * data.x[i] / 1e4) * scale * canvas.clientWidth;
const py = i => top + (.99 - .98 * data.y[i] / 1e4) * scale * canvas.clientHeight;
// ---- the list beside the map
const list = featureList(document.getElementById('map-list'), data.order, (node, i) => {
  const dot = el('i');
  dot.style.background = palette[i];
  node.style.borderLeftColor = ofCluster(data.cluster[i]);
  node.append(dot, el('b', `#${data.feature[i]}`), ...data.raised[i].slice(0, 3).map(r => el('bdi', data.vocabulary[r])));
}, i => keep(i), i => { hover = i; draw(); });
const shown = i => !hidden.has(data.level[i]);
let waiting = false;
function draw() { if (!waiting) { waiting = true; requestAnimationFrame(() => { waiting = false; paint(); }); } }
function paint() {
  const ratio = window.devicePixelRatio || 1, w = canvas.clientWidth, h = canvas.clientHeight;
  if (canvas.width !== Math.round(w * ratio)) { canvas.width = Math.round(w * ratio); canvas.height = Math.round(h * ratio); }
  pen.setTransform(ratio, 0, 0, ratio, 0, 0);
  pen.clearRect(0, 0, w, h);
  const radius = level => Math.max(1, (3.6 - 1.1 * level)) * Math.min(3, Math.sqrt(scale));
  pen.globalAlpha = .7;
  for (let level = data.names.length - 1; level >= 0; level--) for (let i = 0; i < count; i++) {
    if (data.level[i] !== level || !shown(i)) continue;
    const x = px(i), y = py(i);
    if (x < -9 || y < -9 || x > w + 9 || y > h + 9) continue;
    pen.fillStyle = palette[i];
    pen.beginPath(); pen.arc(x, y, radius(level), 0, 7); pen.fill();
  }
  pen.globalAlpha = 1;
  const kin = chosen >= 0 ? members.get(data.cluster[chosen]) || [] : [];
  pen.strokeStyle = ofCluster(kin.length ? data.cluster[chosen] : -1);
  for (const i of kin) if (shown(i)) { pen.lineWidth = 1.6; pen.beginPath(); pen.arc(px(i), py(i), radius(data.level[i]) + 3, 0, 7); pen.stroke(); }
  pen.strokeStyle = css('--ink');
  if (hover >= 0 && shown(hover)) { pen.lineWidth = 1.5; pen.beginPath(); pen.arc(px(hover), py(hover), radius(data.level[hover]) + 5, 0, 7); pen.stroke(); }
  for (const i of family) if (shown(i)) { pen.lineWidth = 1; pen.beginPath(); pen.arc(px(i), py(i), radius(data.level[i]) + 2, 0, 7); pen.stroke(); }
  if (chosen >= 0) {
    for (const [j, cosine] of links.get(chosen) || []) if (shown(j)) {
      pen.globalAlpha = .25 + .6 * Math.max(0, cosine - 40) / 60; pen.lineWidth = 1.2;
      pen.beginPath(); pen.moveTo(px(chosen), py(chosen)); pen.lineTo(px(j), py(j)); pen.stroke();
    }
    pen.globalAlpha = 1; pen.lineWidth = 2.5;
    pen.beginPath(); pen.arc(px(chosen), py(chosen), radius(data.level[chosen]) + 4, 0, 7); pen.stroke();
  }
}

// ---- words about a dot
const name = i => `#${data.feature[i]} of ${data.names[data.level[i]]}`;
// The number of a feature, linked to its dictionary's browser where there is one.
function numbered(i) {
  const known = browsers[data.dictionaries?.[data.level[i]]], a = el(known ? 'a' : 'b', name(i), 'feature');
  if (known) a.href = `${known}#${data.feature[i]}`;
  return a;
}
function describe(box, i) {
  const words = el('p', null, 'words');
  words.append('raises ');
  for (const r of data.raised[i]) words.append(el('bdi', data.vocabulary[r]), ' ');
  box.replaceChildren(numbered(i), el('p', `fires on ${(100 * 10 ** data.density[i]).toPrecision(2)} % of tokens, ${data.share[i]} % of them ${data.sources[data.source[i]]}`), words);
}
function chips(dots, words) {
  return dots.map(j => {
    const go = el('button', words(j), 'chip');
    go.style.margin = '0 .3rem .3rem 0';
    go.onclick = () => keep(j);
    return go;
  });
}
function keep(i) {
  chosen = i;
  chosenBox.hidden = i < 0;
  if (i >= 0) {
    describe(chosenBox, i);
    const joined = [...(links.get(i) || [])].sort((a, b) => b[1] - a[1]);
    const row = el('p', joined.length ? 'joined to ' : 'joined to none'), cosines = new Map(joined);
    row.append(...chips(joined.slice(0, 40).map(([j]) => j), j => `${name(j)} (${(cosines.get(j) / 100).toFixed(2)})`));
    if (joined.length > 40) row.append(`and ${joined.length - 40} more`);
    const kin = (members.get(data.cluster[i]) || []).filter(j => j !== i);
    const near = el('p', data.cluster[i] < 0 ? 'in no cluster' : `cluster ${data.cluster[i]}, with `);
    near.append(...chips(kin.slice(0, 40), name));
    if (kin.length > 40) near.append(`and ${kin.length - 40} more`);
    chosenBox.append(row, near);
  }
  list.choose(i);
  draw();
}
function nearest(x, y) {
  let best = -1, least = 14 * 14;
  for (let i = 0; i < count; i++) {
    if (!shown(i)) continue;
    const d = (px(i) - x) ** 2 + (py(i) - y) ** 2;
    if (d < least) { least = d; best = i; }
  }
  return best;
}

// ---- pointer and keys
let drag = null;
const where = e => { const r = canvas.getBoundingClientRect(); return [e.clientX - r.left, e.clientY - r.top]; };
canvas.onpointerdown = e => { const [x, y] = where(e); drag = { x, y, left, top, moved: false }; canvas.setPointerCapture(e.pointerId); };
canvas.onpointerup = e => { const [x, y] = where(e); if (drag && !drag.moved) keep(nearest(x, y)); drag = null; };
canvas.onpointermove = e => {
  const [x, y] = where(e);
  if (drag) {
    drag.moved ||= Math.hypot(x - drag.x, y - drag.y) > 4;
    if (drag.moved) { left = drag.left + x - drag.x; top = drag.top + y - drag.y; tip.hidden = true; draw(); }
    return;
  }
  const before = hover;
  hover = nearest(x, y);
  if (hover !== before) draw();
  tip.hidden = hover < 0;
  if (hover >= 0) {
    describe(tip, hover);
    tip.style.left = `${Math.min(px(hover) + 12, canvas.clientWidth - 330)}px`;
    tip.style.top = `${Math.min(py(hover) + 12, canvas.clientHeight - 120)}px`;
  }
};
canvas.onpointerleave = () => { tip.hidden = true; hover = -1; draw(); };
function zoom(by, x, y) {
  const next = Math.min(60, Math.max(1, scale * by)), f = next / scale;
  left = x - (x - left) * f; top = y - (y - top) * f; scale = next;
  if (scale === 1) left = top = 0;
  draw();
}
canvas.addEventListener('wheel', e => { e.preventDefault(); zoom(Math.exp(-e.deltaY / 300), ...where(e)); }, { passive: false });
canvas.ondblclick = () => { scale = 1; left = top = 0; draw(); };
canvas.onkeydown = e => {
  const move = { ArrowLeft: [60, 0], ArrowRight: [-60, 0], ArrowUp: [0, 60], ArrowDown: [0, -60] }[e.key];
  if (move) { left += move[0]; top += move[1]; e.preventDefault(); draw(); }
  else if (e.key === '+' || e.key === '=') zoom(1.4, canvas.clientWidth / 2, canvas.clientHeight / 2);
  else if (e.key === '-') zoom(1 / 1.4, canvas.clientWidth / 2, canvas.clientHeight / 2);
  else if (e.key === '0' || e.key === 'Escape') { scale = 1; left = top = 0; draw(); }
};

// ---- tools: colour, which dictionaries, search by number
const tools = document.getElementById('map-tools');
for (const m of ['dictionary', 'cluster', 'source', 'density']) {
  const chip = el('button', `colour by ${m}`, 'chip');
  chip.setAttribute('aria-pressed', m === mode);
  chip.onclick = () => {
    mode = m;
    for (const c of tools.querySelectorAll('[data-mode]')) c.setAttribute('aria-pressed', c === chip);
    colours(); list.renew(); draw();
  };
  chip.dataset.mode = m;
  tools.append(chip);
}
data.names.forEach((n, i) => {
  const chip = el('button', n, 'chip');
  chip.setAttribute('aria-pressed', 'true');
  chip.onclick = () => { hidden.has(i) ? hidden.delete(i) : hidden.add(i); chip.setAttribute('aria-pressed', !hidden.has(i)); list.only(shown); draw(); };
  tools.append(chip);
});
const search = el('input');
search.type = 'search'; search.placeholder = 'number, token or source'; search.className = 'chip';
search.setAttribute('aria-label', 'Find a feature by number, token or source');
search.onchange = () => {
  const q = search.value.trim().replace(/^#/, '');
  if (!q) return;
  const hit = i => String(data.feature[i]) === q || data.sources[data.source[i]] === q || data.raised[i].some(r => data.vocabulary[r].replaceAll('␣', ' ').trim() === q);
  for (let k = 1; k <= count; k++) { const i = (chosen + k + count) % count; if (shown(i) && hit(i)) { keep(i); return; } }
};
tools.append(search);
new ResizeObserver(draw).observe(canvas);
matchMedia('(prefers-color-scheme: dark)').addEventListener('change', () => { colours(); list.renew(); draw(); });
colours();
list.renew();
keep(chosen);
