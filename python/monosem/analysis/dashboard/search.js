// From what is typed and chosen to the features that are listed, in order.
const STATS = { density: (f) => all.density[f], count: (f) => all.count[f], max: (f) => all.max[f], r: (f) => all.r[f], skew: (f) => all.skew[f], focus: (f) => all.focus[f] };
const EVERY_ORDER = {
  skew: ["sharpest predictions", (f) => (all.count[f] < 20 ? -1e9 : 0) + all.skew[f]],
  r: ["follows one source best", (f) => all.r[f]],
  focus: ["fires on one token", (f) => (all.count[f] < 20 ? -1 : 0) + all.focus[f]],
  density: ["most frequent", (f) => all.count[f]],
  rare: ["rarest", (f) => -all.count[f]],
  max: ["strongest activation", (f) => all.max[f]],
  number: ["number", (f) => -f],
};
// Not every dictionary has logit weights, tokens or several sources.
const LACKS = { skew: !meta.logits, focus: meta.unit === "text", r: meta.unit === "text" && meta.sources.length < 2 };
const ORDERS = Object.fromEntries(Object.entries(EVERY_ORDER).filter(([key]) => !LACKS[key]));
for (const key of ["skew", "focus"]) if (LACKS[key]) delete STATS[key];
const COLUMNS = ["tokens", "logits"].filter((name) => (name === "logits" ? meta.logits : meta.unit === "token"));

// The same cutting into words as when the index of words was made.
const UNSPACED = /[\u0e00-\u0e7f\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af]/;
function cut(text) {
  const out = [];
  for (const found of text.toLowerCase().match(/[\p{L}\p{N}\p{M}]+/gu) || []) {
    const characters = [...found];
    if (UNSPACED.test(found)) for (let i = 0; i < Math.max(1, characters.length - 1); i++) out.push(characters.slice(i, i + 2).join(""));
    else if (characters.length > 1) out.push(characters.slice(0, 16).join(""));
  }
  return out;
}
async function textMask(text) {
  const mask = new Uint8Array(meta.d_sae).fill(1), found = cut(text);
  if (!found.length) return new Uint8Array(meta.d_sae);
  for (const part of found) {
    const [a, b] = [...part].map((c) => c.codePointAt(0));
    const shard = await monosem.load(`words-${(a * 31 + (b || 0)) % meta.shards}`);
    const own = new Uint8Array(meta.d_sae);
    for (const [key, differences] of Object.entries(shard)) {
      if (!key.startsWith(part)) continue;
      let f = 0;
      for (const d of differences) own[(f += d)] = 1;
    }
    for (let f = 0; f < mask.length; f++) mask[f] &= own[f];
  }
  return mask;
}
function tokenMask(text, columns = COLUMNS) {
  const wanted = new Set();
  const query = text.toLowerCase();
  if (!all.lower.length) all.lower = all.vocabulary.map((v) => v.trim().toLowerCase());
  all.lower.forEach((v, id) => { if (query.length > 1 ? v.startsWith(query) : v === query) wanted.add(id); });
  const mask = new Uint8Array(meta.d_sae);
  for (const name of columns.filter((name) => COLUMNS.includes(name))) {
    const ids = all[name], per = name === "tokens" ? all.perTokens : all.perLogits;
    for (let i = 0; i < ids.length; i++) if (wanted.has(ids[i])) mask[Math.floor(i / per)] = 1;
  }
  return mask;
}
function sourceMask(text) {
  const chosen = meta.sources.map((s) => s.toLowerCase().includes(text.toLowerCase()));
  return Uint8Array.from(all.source, (s, f) => (chosen[s] && all.count[f] ? 1 : 0));
}
const either = (...masks) => masks.reduce((a, b) => a.map((v, i) => v | b[i]));

// One term of the query as a mask over features.
async function termMask(term) {
  const statistic = /^(density|count|max|r|skew|focus)(<=|>=|<|>|=)(-?[\d.]+(?:e-?\d+)?)%?$/i.exec(term);
  if (statistic && STATS[statistic[1].toLowerCase()]) {
    const [, name, sign, text] = statistic, bound = Number(text) / (term.endsWith("%") ? 100 : 1), get = STATS[name.toLowerCase()];
    const holds = { "<": (v) => v < bound, "<=": (v) => v <= bound, ">": (v) => v > bound, ">=": (v) => v >= bound, "=": (v) => v === bound }[sign];
    return Uint8Array.from(all.count, (_, f) => (holds(get(f)) ? 1 : 0));
  }
  const hash = /^#?(\d+)$/.exec(term);
  if (hash && (term[0] === "#" || Number(hash[1]) < meta.d_sae)) {
    const mask = term[0] === "#" ? new Uint8Array(meta.d_sae) : either(tokenMask(term), await textMask(term));
    if (Number(hash[1]) < meta.d_sae) mask[Number(hash[1])] = 1;
    return mask;
  }
  const keyed = /^(source|token|fires|says|text):(.*)$/is.exec(term);
  if (!keyed) return either(sourceMask(term), tokenMask(term), await textMask(term));
  const [, key, value] = keyed;
  if (!value) return new Uint8Array(meta.d_sae).fill(1);
  return {
    source: () => sourceMask(value), token: () => tokenMask(value),
    fires: () => tokenMask(value, ["tokens"]), says: () => tokenMask(value, ["logits"]), text: () => textMask(value),
  }[key.toLowerCase()]();
}
const terms = (query) => (query.match(/(?:"[^"]*"?|[^\s"])+/g) || []).map((t) => t.replace(/"/g, "")).filter(Boolean);

// The features to list: every term holds, the density lies within the bounds; sorted.
async function find({ query, low, high, source, silent, order }) {
  const masks = [];
  for (const term of terms(query)) {
    const not = term.length > 1 && term[0] === "-";
    const mask = await termMask(not ? term.slice(1) : term);
    masks.push(not ? mask.map((v) => 1 - v) : mask);
  }
  const out = [];
  for (let f = 0; f < meta.d_sae; f++) {
    const d = all.density[f];
    if (!(d ? d >= low && d <= high : silent)) continue;
    if (source !== null && (all.source[f] !== source || !all.count[f])) continue;
    if (masks.every((m) => m[f])) out.push(f);
  }
  const key = new Float64Array(meta.d_sae);
  for (const f of out) key[f] = ORDERS[order][1](f);
  return Int32Array.from(out).sort((a, b) => key[b] - key[a] || a - b);
}
