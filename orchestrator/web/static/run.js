// A run's page: the log, the charts, the parts that the server sends anew, and what a person types.
"use strict";

(() => {
  const MOST_LINES = 4000;
  const run = document.getElementById("charts").dataset.run;
  const log = document.getElementById("log");
  const stage = document.getElementById("log-stage");
  const levels = [...document.querySelectorAll("[name=level]")];
  const follow = document.getElementById("log-follow");
  const charts = new LiveCharts(JSON.parse(document.getElementById("chart-facts").textContent), document.querySelector(".charts"));
  const shown = {};
  let place = "0.0", lastLine = 0, tail = true, stream = null;

  // The log: each line once. Its number says which ones are there already.
  const tame = (text) => text.replace(/[\p{Cc}\p{Cf}\u2028\u2029]/gu, "\u00b7");
  function takeLog(lines) {
    const made = document.createDocumentFragment();
    for (const [id, ts, level, where, text] of lines) {
      if (id <= lastLine) continue;
      lastLine = id;
      const line = document.createElement("li");
      line.className = level;
      line.dataset.id = id;
      const time = document.createElement("time");
      time.textContent = tame(ts.slice(11, 19));
      time.dateTime = ts;
      const stageName = document.createElement("i");
      stageName.textContent = tame(where);
      const said = document.createElement("span");
      said.textContent = tame(text);
      line.append(time, stageName, said);
      made.append(line);
    }
    log.append(made);
    while (log.children.length > MOST_LINES) log.firstElementChild.remove();
    document.getElementById("log-none").hidden = log.children.length > 0;
    if (follow.checked) log.scrollTop = log.scrollHeight;
  }

  function filterAnew() {
    log.replaceChildren();
    document.getElementById("log-none").hidden = false;
    lastLine = 0;
    tail = true;
    stream.reopen();
  }

  function takeSamples(samples) {
    for (const [ts, kind, key, value, unit] of samples) charts.add(Date.parse(ts) / 1000, kind, key, value, unit);
    charts.draw();
  }

  function takePart({ name, html }) {
    if (shown[name] === html) return;
    shown[name] = html;
    const part = document.getElementById(`part-${name}`);
    const open = new Map([...part.querySelectorAll("details[id]")].map((one) => [one.id, one.open]));
    const focused = part.contains(document.activeElement) ? document.activeElement : null;
    const again = focused?.id ? `#${CSS.escape(focused.id)}` : null;
    part.innerHTML = html;
    for (const one of part.querySelectorAll("details[id]")) if (open.has(one.id)) one.open = open.get(one.id);
    htmx.process(part);
    if (again) part.querySelector(again)?.focus();
    if (beat) takeBeat(beat);
    Console.tellAges(part);
  }

  let beat = null;
  function takeBeat(now) {
    beat = now;
    const put = (name, text) => { for (const one of document.querySelectorAll(`[data-beat=${name}]`)) one.textContent = text; };
    for (const one of document.querySelectorAll("[data-beat=seen]")) { one.dataset.ago = now.seen || ""; }
    put("stage", now.stage || "–");
    put("eta", now.eta === null ? "–" : Console.span(now.eta));
    put("hot", now.hot === null ? "–" : `${now.hot} °C ${now.sensor}`);
    for (const one of document.querySelectorAll("progress[data-beat]")) {
      if (now.progress === null) one.removeAttribute("value"); else one.value = now.progress;
    }
  }

  function address() {
    const query = new URLSearchParams({ from: place });
    if (stage.value !== "*") query.set("stage", stage.value);
    const wanted = levels.filter((one) => one.checked).map((one) => one.value);
    if (wanted.length < levels.length) query.set("levels", wanted.join(",") || "none");
    if (tail) query.set("tail", "1");
    return `/runs/${run}/stream?${query}`;
  }

  const placed = (take) => (data, id) => { if (id) { place = id; tail = false; } take(data); };

  async function begin() {
    try {
      const response = await fetch(`/runs/${run}/samples`, { headers: { Accept: "application/json" } });
      const { start, series, last } = await response.json();
      const begun = Date.parse(start) / 1000;
      for (const one of series) for (const [at, value] of one.points) charts.add(begun + at, one.kind, one.key, value, one.unit);
      place = `0.${last}`;
      charts.draw();
    } catch { Console.connected(false); }
    stream = Console.follow(address, {
      log: placed(takeLog), samples: placed(takeSamples), part: placed(takePart), beat: takeBeat, bands: (facts) => charts.mark(facts),
    });
  }

  stage.addEventListener("change", filterAnew);
  for (const one of levels) one.addEventListener("change", filterAnew);
  follow.addEventListener("change", () => { if (follow.checked) log.scrollTop = log.scrollHeight; });
  log.addEventListener("wheel", () => { follow.checked = log.scrollTop + log.clientHeight >= log.scrollHeight - 30; }, { passive: true });

  // Waivers: the dialog takes the finding of the button that was pressed.
  const dialog = document.getElementById("waive");
  document.addEventListener("click", (event) => {
    const button = event.target.closest("[data-waive]");
    if (button && dialog) {
      for (const name of ["code", "component"]) {
        dialog.querySelector(`[name=${name}]`).value = button.dataset[name];
        dialog.querySelector(`[data-waive-${name}]`).textContent = button.dataset[name];
      }
      dialog.showModal();
    }
    if (event.target.closest("[data-close]")) dialog.close();
    if (event.target.closest("[data-close-panel]")) document.getElementById("panel").replaceChildren();
  });
  document.addEventListener("htmx:afterRequest", (event) => {
    if (!event.detail.successful) return;
    const where = event.detail.requestConfig.path;
    if (where.endsWith("/waive")) { dialog.close(); dialog.querySelector("form").reset(); }
    if (/\/wipe\/./.test(where)) document.getElementById("panel").replaceChildren();
    if (where.endsWith("/wipe")) document.querySelector("#panel input:not(:disabled)")?.focus();
    else document.getElementById("notices").scrollIntoView({ block: "nearest" });
  });

  // The wipe: a disk counts when it is ticked and its serial number typed.
  document.addEventListener("input", (event) => {
    const form = event.target.closest(".wipe form");
    if (!form) return;
    let ticked = 0, ready = true;
    for (const box of form.querySelectorAll("[data-wipe]")) {
      const typed = form.querySelector(`[data-typed="${CSS.escape(box.value)}"]`);
      if (!typed) continue;
      typed.disabled = !box.checked;
      const fits = typed.value.trim() === box.value;
      typed.classList.toggle("fits", fits);
      ticked += box.checked;
      if (box.checked && !fits) ready = false;
    }
    form.querySelector("button.danger").disabled = !(ticked && ready);
  });
  document.addEventListener("submit", (event) => {
    if (event.target.action.endsWith("/key")) setTimeout(() => event.target.remove(), 500);
  });

  begin();
})();
