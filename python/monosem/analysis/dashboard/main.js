// The page's life: what is asked for, the address, the keys.
(() => {
  const { el, svg, percent } = draw;
  const asked = { query: "", low: 0, high: 1, source: null, silent: false, order: Object.keys(ORDERS)[0] };
  let current = null, view = "list", turn = 0;

  async function search(stay = true) {
    const mine = ++turn;
    const found = await find(asked).catch(complain);
    if (mine !== turn || !found) return;
    list.set(found, current);
    $("count").textContent = `${number(found.length)} of ${number(meta.d_sae)}`;
    if (!stay && found.length && !found.includes(current)) open(found[0], false);
  }
  function complain(error) {
    $("body").replaceChildren(el("p", { class: "note" }, error.message));
  }
  function nothing() {
    const some = all.count.some((n) => n > 0);
    complain(new Error(some ? "No feature matches the search." : "No feature fires on the text that was read: “silent too” lists them."));
  }
  const onPrompt = () => location.hash.startsWith("#p");
  async function open(f, address = true) {
    current = f;
    if (address && location.hash !== `#${f}`) history.replaceState(null, "", `#${f}`);
    list.go(f);
    let data;
    try { data = await record(f); } catch (error) { return complain(error); }
    if (current !== f) return;
    $("body").replaceChildren(...feature.page(data));
    $("main").scrollTop = 0;
    document.title = `#${f} · ${document.querySelector("h1").textContent}`;
    document.documentElement.dataset.ready = `#${f}`;
  }
  function route() {
    const hash = decodeURIComponent(location.hash.slice(1));
    if (/^p\d+$/.test(hash) && meta.prompts[Number(hash.slice(1))]) {
      current = null;
      list.go(-1);
      narrow("feature");
      prompt.open(Number(hash.slice(1)));
      document.documentElement.dataset.ready = `#${hash}`;
    } else if (/^\d+$/.test(hash) && Number(hash) < meta.d_sae) {
      narrow("feature");
      open(Number(hash), false);
    } else if (list.first() !== null) open(list.first(), false);
    else nothing();
  }
  function narrow(which) { // on a narrow screen either the list or the feature is seen
    view = which;
    document.body.dataset.view = which;
  }

  // ---- density: a histogram with two bounds ----
  function densities() {
    const logs = [...all.density].filter((d) => d > 0).map(Math.log10);
    const floor = Math.floor(logs.reduce((a, b) => Math.min(a, b), 0)) || -1, bins = 48, counts = new Array(bins).fill(0);
    for (const v of logs) counts[Math.min(bins - 1, Math.floor(((v - floor) / -floor) * bins))]++;
    const top = Math.max(...counts, 1), root = svg("svg", { viewBox: `0 0 ${bins * 6} 40`, preserveAspectRatio: "none", "aria-hidden": "true" });
    counts.forEach((c, i) => { if (c) root.append(svg("rect", { class: "bar", x: i * 6, width: 5, y: 40 - Math.max(1, (40 * c) / top), height: Math.max(1, (40 * c) / top) })); });
    $("bars").append(root);
    for (const id of ["low", "high"]) {
      const range = $(id);
      Object.assign(range, { min: floor, max: 0, step: 0.05, value: id === "low" ? floor : 0 });
      range.addEventListener("input", () => {
        const low = Math.min(Number($("low").value), Number($("high").value)), high = Math.max(Number($("low").value), Number($("high").value));
        asked.low = low <= floor ? 0 : 10 ** low;
        asked.high = high >= 0 ? 1 : 10 ** high;
        bounds(low, high, floor);
        search();
      });
    }
    bounds(floor, 0, floor);
  }
  function bounds(low, high, floor) {
    const say = (v) => percent(10 ** v);
    $("bounds").textContent = low <= floor && high >= 0 ? "any density" : `fires on ${say(low)} to ${say(high)} of ${meta.unit}s`;
    [...$("bars").querySelectorAll("rect")].forEach((bar) => {
      const at = floor + ((Number(bar.getAttribute("x")) + 3) / 288) * -floor;
      bar.classList.toggle("out", at < low || at > high);
    });
  }

  function controls() {
    let timer;
    $("search").addEventListener("input", () => {
      clearTimeout(timer);
      timer = setTimeout(() => { asked.query = $("search").value.trim(); search(false); }, 80);
    });
    for (const [key, [name]] of Object.entries(ORDERS)) $("order").append(el("option", { value: key }, name));
    $("order").addEventListener("change", () => { asked.order = $("order").value; search(); });
    $("source").append(el("option", { value: "" }, "any source"), ...meta.sources.map((s, i) => el("option", { value: i }, s)));
    $("source").addEventListener("change", () => { asked.source = $("source").value === "" ? null : Number($("source").value); search(false); });
    $("silent").addEventListener("change", () => { asked.silent = $("silent").checked; search(current !== null || onPrompt()); });
    $("back").addEventListener("click", () => narrow("list"));
    $("help-button").addEventListener("click", help);
    $("list").addEventListener("click", () => narrow("feature"));
    densities();
  }
  function help() { const box = $("help"); box.open ? box.close() : box.showModal(); }

  addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const typing = event.target === $("search");
    if (event.key === "Escape") { event.preventDefault(); $("help").close(); $("search").blur(); narrow(view === "feature" && !typing ? "list" : view); return; }
    if (typing) {
      if (event.key === "Enter" || event.key === "ArrowDown") { event.preventDefault(); $("search").blur(); if (list.first() !== null) open(list.first()); }
      return;
    }
    if (/^(SELECT|INPUT)$/.test(event.target.tagName)) return;
    const go = (f) => { if (f !== null) open(f); };
    const keys = {
      "/": () => { narrow("list"); $("search").focus(); $("search").select(); }, "?": help,
      j: () => go(list.step(1)), k: () => go(list.step(-1)), ArrowDown: () => go(list.step(1)), ArrowUp: () => go(list.step(-1)),
      PageDown: () => go(list.step(10)), PageUp: () => go(list.step(-10)), Home: () => go(list.first()), End: () => go(list.last()),
      Enter: () => narrow("feature"), ArrowRight: () => narrow("feature"), ArrowLeft: () => narrow("list"),
      p: () => { if (meta.prompts.length) location.hash = onPrompt() ? "" : "#p0"; },
    };
    if (onPrompt() && /^(Arrow.*|Enter|j|k)$/.test(event.key) && prompt.key(event.key)) return event.preventDefault();
    if (!keys[event.key]) return;
    event.preventDefault();
    keys[event.key]();
  });
  addEventListener("hashchange", route);

  monosem.load("summary").then(async (summary) => {
    unpack(summary);
    controls();
    await search();
    route();
    if (meta.prompts.length) $("prompts").hidden = false;
    document.documentElement.dataset.loaded = String(Math.round(performance.now()));
  }).catch(complain);
})();
