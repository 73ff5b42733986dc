// What every page shares: ages that go on, questions before what cannot be undone, and word of a lost connection.
"use strict";

const Console = {
  ago(text) {
    const seconds = Math.max(0, (Date.now() - Date.parse(text)) / 1000);
    if (seconds < 90) return `${Math.round(seconds)} s`;
    if (seconds < 5400) return `${Math.round(seconds / 60)} min`;
    if (seconds < 129600) return `${Math.round(seconds / 3600)} h`;
    return `${Math.round(seconds / 86400)} d`;
  },

  span(seconds) {
    if (seconds < 90) return `${Math.round(seconds)} s`;
    if (seconds < 5400) return `${Math.round(seconds / 60)} min`;
    return `${(seconds / 3600).toFixed(1)} h`;
  },

  tellAges(root = document) {
    for (const one of root.querySelectorAll("[data-ago]")) {
      const text = one.dataset.ago ? Console.ago(one.dataset.ago) : "never";
      if (one.textContent !== text) one.textContent = text;
    }
  },

  connected(isConnected) {
    document.getElementById("connection").hidden = isConnected;
  },

  // An EventSource that comes back by itself, also after an error that EventSource takes as final.
  // `address()` is asked anew each time, so that a stream goes on where it was.
  follow(address, events, { onOpen } = {}) {
    let source = null, timer = null, pause = 500, ended = false;
    const open = () => {
      source = new EventSource(address());
      source.onopen = () => { pause = 500; Console.connected(true); if (onOpen) onOpen(); };
      source.onerror = () => {
        Console.connected(false);
        source.close();
        if (!ended) timer = setTimeout(open, pause);
        pause = Math.min(pause * 1.7, 8000);
      };
      source.addEventListener("login", () => { ended = true; source.close(); location.reload(); });
      for (const [name, take] of Object.entries(events)) {
        source.addEventListener(name, (event) => take(JSON.parse(event.data), event.lastEventId));
      }
    };
    open();
    const close = () => { ended = true; clearTimeout(timer); source.close(); };
    addEventListener("pagehide", close);
    return { close, reopen() { clearTimeout(timer); source.close(); ended = false; open(); } };
  },
};

document.addEventListener("submit", (event) => {
  const question = event.target.dataset.confirm;
  if (question && !confirm(question)) event.preventDefault();
});
document.addEventListener("keydown", (event) => {
  const typing = event.target.closest("input, textarea, select, .terminal");
  if (event.key === "/" && !typing) {
    const search = document.querySelector("[data-search]");
    if (search) { event.preventDefault(); search.focus(); search.select(); }
  }
});
document.addEventListener("htmx:sendError", () => Console.connected(false));
document.addEventListener("htmx:afterOnLoad", () => Console.connected(true));
document.addEventListener("htmx:beforeSwap", (event) => {
  // Errors come as fragments made to be shown.
  if (event.detail.xhr.status >= 400) { event.detail.shouldSwap = true; event.detail.isError = false; }
});
document.addEventListener("htmx:afterSwap", (event) => {
  // What became of an order stands in the page itself, which a notice that stayed would contradict.
  const asked = event.detail.target.querySelector(":scope > [data-passing]");
  if (asked) setTimeout(() => asked.remove(), 15000);
});
setInterval(() => Console.tellAges(), 1000);
Console.tellAges();
