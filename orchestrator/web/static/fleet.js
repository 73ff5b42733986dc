// The fleet: beats put in place, filters, search, order, choice, and the stream that keeps it live.
"use strict";

(() => {
  const body = document.querySelector("#hosts tbody");
  const form = document.getElementById("fleet");
  const search = document.getElementById("search");
  const bulk = document.getElementById("bulk");
  const all = document.getElementById("choose-all");
  const rows = new Map();
  const ORDER = ["alert", "holding", "running", "waiting", "completed", "ended"];
  let version = form.dataset.version;
  let group = "", words = [], sort = "state", descending = false;
  const collator = new Intl.Collator("en", { numeric: true });

  function adopt(tr) {
    const id = tr.id.slice(1);
    const one = {
      id, tr, group: tr.dataset.group, text: tr.dataset.text, host: tr.querySelector("th a").textContent,
      box: tr.querySelector("input"), beat: rows.get(id)?.beat,
      errors: Number(tr.dataset.errors),
    };
    if (rows.get(id)?.box.checked) one.box.checked = true;
    rows.set(id, one);
    return one;
  }

  function put(one, beat) {
    one.beat = beat;
    const [seen, progress, eta, hot, sensor] = beat;
    const tr = one.tr;
    const when = tr.querySelector("[data-seen]");
    if (seen) { when.dataset.ago = seen; when.textContent = Console.ago(seen); }
    const bar = tr.querySelector("progress");
    if (bar) {
      if (progress === null) bar.removeAttribute("value"); else bar.value = progress;
    }
    const parts = [];
    if (bar && progress !== null) parts.push(`${Math.round(progress * 100)} %`);
    if (bar && eta !== null) parts.push(Console.span(eta));
    tr.querySelector("[data-eta]").textContent = parts.join(" · ");
    const cell = tr.querySelector("[data-hot]");
    cell.textContent = hot === null ? "" : `${Math.round(hot)} °C`;
    cell.title = sensor;
  }

  const KEYS = {
    host: () => 0,
    state: (one) => ORDER.indexOf(one.group),
    progress: (one) => one.beat?.[1] ?? -1,
    hot: (one) => one.beat?.[3] ?? -1000,
    seen: (one) => (one.beat?.[0] ? -Date.parse(one.beat[0]) : Infinity),
    errors: (one) => -one.errors,
  };

  function arrange() {
    const key = KEYS[sort], sign = descending ? -1 : 1;
    const order = [...rows.values()].sort((a, b) => {
      const by = key(a) - key(b);
      return sign * (by || collator.compare(a.host, b.host));
    });
    let previous = null;
    for (const one of order) {
      const next = previous ? previous.nextElementSibling : body.firstElementChild;
      if (next !== one.tr) body.insertBefore(one.tr, next);
      previous = one.tr;
    }
  }

  function fits(one) {
    return (!group || one.group === group) && words.every((word) => one.text.includes(word));
  }

  function filter() {
    let shown = 0;
    for (const one of rows.values()) {
      const fit = fits(one);
      one.tr.hidden = !fit;
      if (!fit) one.box.checked = false;
      shown += fit;
    }
    const none = document.getElementById("none");
    none.hidden = shown > 0;
    if (rows.size) none.textContent = "No host fits.";
    for (const button of document.querySelectorAll(".groups button")) {
      button.setAttribute("aria-pressed", String(button.dataset.group === group));
    }
    const query = new URLSearchParams();
    if (group) query.set("group", group);
    if (search.value) query.set("q", search.value);
    history.replaceState(null, "", query.size ? `?${query}` : location.pathname);
    choice();
  }

  function choice() {
    if (!bulk) return;
    const chosen = [...rows.values()].filter((one) => one.box.checked).length;
    bulk.hidden = chosen === 0;
    document.getElementById("chosen").textContent = chosen;
    all.checked = chosen > 0 && [...rows.values()].every((one) => one.tr.hidden || one.box.checked);
    all.indeterminate = chosen > 0 && !all.checked;
  }

  function count(counts) {
    counts.all = Object.values(counts).reduce((sum, one) => sum + one, 0);
    for (const [name, number] of Object.entries(counts)) {
      for (const one of document.querySelectorAll(`[data-count="${name}"]`)) one.textContent = number;
    }
    document.getElementById("alert").hidden = !counts.alert;
  }

  // Rows are put in a handful at a time, so that a thousand of them never hold up a click.
  const waiting = new Map();
  let working = false;
  const CHUNK = 120;

  function takeRow(key, html) {
    const made = document.createElement("template");
    made.innerHTML = html;
    const tr = made.content.firstElementChild, old = rows.get(key)?.tr;
    const focused = old?.contains(document.activeElement);
    if (old) old.replaceWith(tr); else body.append(tr);
    const one = adopt(tr);
    if (one.beat) put(one, one.beat);
    if (focused) tr.querySelector("a").focus();
  }

  function work() {
    working = false;
    let left = CHUNK;
    for (const [key, { html, beat }] of waiting) {
      if (left-- === 0) break;
      waiting.delete(key);
      takeRow(key, html);
      if (beat) put(rows.get(key), beat);
    }
    arrange();
    filter();
    more();
  }

  function more() {
    if (working || !waiting.size) return;
    working = true;
    setTimeout(work, 0);
  }

  function take(delta, id) {
    version = id;
    for (const gone of delta.gone) {
      rows.get(String(gone))?.tr.remove();
      rows.delete(String(gone));
      waiting.delete(String(gone));
    }
    for (const [key, html] of Object.entries(delta.html)) waiting.set(key, { html, beat: waiting.get(key)?.beat });
    for (const [key, beat] of Object.entries(delta.beats)) {
      if (waiting.has(key)) waiting.get(key).beat = beat; else if (rows.has(key)) put(rows.get(key), beat);
    }
    count(delta.counts);
    if (delta.gone.length) filter();
    if (waiting.size) work();
  }

  for (const tr of body.children) adopt(tr);
  const beats = JSON.parse(document.getElementById("beats").textContent);
  for (const [key, beat] of Object.entries(beats)) if (rows.has(key)) put(rows.get(key), beat);

  const query = new URLSearchParams(location.search);
  group = ORDER.includes(query.get("group")) ? query.get("group") : "";
  search.value = query.get("q") || "";
  const read = () => { words = search.value.toLowerCase().split(/\s+/).filter(Boolean); };
  read();
  if (group || words.length) filter();

  search.addEventListener("input", () => { read(); filter(); });
  for (const button of document.querySelectorAll(".groups button, [data-group-link]")) {
    button.addEventListener("click", () => { group = button.dataset.groupLink ?? button.dataset.group; filter(); });
  }
  for (const head of document.querySelectorAll("[data-sort]")) {
    head.querySelector("button").addEventListener("click", () => {
      descending = sort === head.dataset.sort ? !descending : false;
      sort = head.dataset.sort;
      for (const other of document.querySelectorAll("[data-sort]")) other.setAttribute("aria-sort", "none");
      head.setAttribute("aria-sort", descending ? "descending" : "ascending");
      arrange();
    });
  }
  let last = null;
  body.addEventListener("click", (event) => {
    const box = event.target.closest("input[type=checkbox]");
    if (!box) return;
    if (event.shiftKey && last) {
      const shown = [...body.querySelectorAll("tr:not([hidden]) input")];
      const [from, to] = [shown.indexOf(last), shown.indexOf(box)].sort((a, b) => a - b);
      if (from >= 0) for (const one of shown.slice(from, to + 1)) one.checked = box.checked;
    }
    last = box;
    choice();
  });
  if (bulk) {
    all.addEventListener("change", () => {
      for (const one of rows.values()) one.box.checked = all.checked && !one.tr.hidden;
      choice();
    });
    document.getElementById("choose-none").addEventListener("click", () => { all.checked = false; all.dispatchEvent(new Event("change")); });
    form.addEventListener("htmx:confirm", (event) => {
      const act = document.getElementById("act");
      event.preventDefault();
      const number = document.getElementById("chosen").textContent;
      if (confirm(`${act.selectedOptions[0].text}: ${number} host(s)?`)) event.detail.issueRequest(true);
    });
  }
  form.addEventListener("submit", (event) => event.preventDefault());
  Console.follow(() => `/fleet/stream?version=${encodeURIComponent(version)}`, { fleet: take });
})();
