"use strict";
// What the page knows: the facts in it, the columns about all features, and data files loaded once when asked for.
const $ = (id) => document.getElementById(id);
const meta = JSON.parse($("meta").textContent);
draw.page.bos = meta.bos;

// Data files are scripts that call one of these: a page opened from disk may not read files, but it may load scripts.
const monosem = (() => {
  const waiting = new Map(), loaded = new Map();
  const arrive = (key, value) => waiting.get(key)?.(value);
  function load(key) {
    if (!loaded.has(key)) {
      loaded.set(key, new Promise((resolve, reject) => {
        waiting.set(key, resolve);
        const script = draw.el("script", { src: `data/${key}.js` });
        script.addEventListener("error", () => {
          loaded.delete(key);
          script.remove();
          reject(new Error(`data/${key}.js is missing beside this page: copy the whole folder, or write it again`));
        });
        script.addEventListener("load", () => script.remove());
        document.head.append(script);
      }));
      if (key.startsWith("features-")) forget();
    }
    return loaded.get(key);
  }
  function forget() { // keep the last 64 files of features
    const keys = [...loaded.keys()].filter((k) => k.startsWith("features-"));
    if (keys.length > 64) { loaded.delete(keys[0]); waiting.delete(keys[0]); }
  }
  return {
    load,
    summary: (value) => arrive("summary", value),
    features: (number, value) => arrive(`features-${number}`, value),
    words: (number, value) => arrive(`words-${number}`, value),
  };
})();

// Columns: one entry per feature (tokens and logits: a few). Filled by unpack().
const all = { count: null, max: null, source: null, r: null, skew: null, focus: null, tokens: null, logits: null, density: null, vocabulary: [], titles: [], lower: [], perTokens: 0, perLogits: 0 };
const ARRAYS = { u1: Uint8Array, u4: Uint32Array, f4: Float32Array, u2: Uint16Array, i4: Int32Array };
function unpacked(packed) {
  if (Uint8Array.fromBase64) return Uint8Array.fromBase64(packed);
  const text = atob(packed), bytes = new Uint8Array(text.length);
  for (let i = 0; i < text.length; i++) bytes[i] = text.charCodeAt(i);
  return bytes;
}
function unpack(summary) {
  for (const [name, packed] of Object.entries(summary.columns)) {
    const bytes = unpacked(packed);
    all[name] = new ARRAYS[summary.kinds[name]](bytes.buffer);
  }
  all.density = Float64Array.from(all.count, (c) => c / Math.max(1, meta.tokens));
  [all.perTokens, all.perLogits] = summary.listed;
  all.vocabulary = summary.vocabulary;
  all.titles = summary.titles;
}
const record = async (feature) => {
  const file = Math.floor(feature / meta.per_file);
  return (await monosem.load(`features-${file}`))[feature - file * meta.per_file];
};
const word = (id) => all.vocabulary[id] ?? `⟨${id}⟩`;
const show = (id, attributes = {}) => draw.write(draw.el("bdi", attributes), word(id));
const number = (v) => v.toLocaleString("en");

// A feature's tokens in a few characters, for links to it; or the beginning of its strongest text.
function brief(feature, count = 2) {
  if (meta.unit === "text") return all.titles[feature] ? [draw.el("span", { dir: "auto" }, all.titles[feature])] : [];
  const out = [];
  for (let i = 0; i < Math.min(count, all.perTokens); i++) {
    const id = all.tokens[feature * all.perTokens + i];
    if (id in all.vocabulary) out.push(show(id));
  }
  return out;
}
