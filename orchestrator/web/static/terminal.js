// The terminal's page: climbs the ladder, names what fails, and passes bytes with acknowledgements.
"use strict";

// The console's policy allows no inline styles. xterm.js writes its rules into <style> elements and some attributes
// `style`; scripts may set the same through the style sheet objects, so they are led there.
(function stylesWithoutInline() {
  const create = Document.prototype.createElement;
  Document.prototype.createElement = function (name, options) {
    if (String(name).toLowerCase() !== "style") return create.call(this, name, options);
    const element = create.call(this, "template"); // even an empty <style> offends the policy
    const sheet = new CSSStyleSheet();
    document.adoptedStyleSheets = [...document.adoptedStyleSheets, sheet];
    Object.defineProperty(element, "textContent", { get: () => "", set: (text) => sheet.replaceSync(text) });
    Object.defineProperty(element, "sheet", { get: () => sheet });
    return element;
  };
  const set = Element.prototype.setAttribute;
  Element.prototype.setAttribute = function (name, value) {
    if (name === "style") this.style.cssText = value;
    else set.call(this, name, value);
  };
})();

(function terminalPage() {
  const page = document.getElementById("terminal");
  const stateChip = document.getElementById("terminal-state");
  const failureBox = document.getElementById("terminal-failure");
  const steps = [...document.querySelectorAll("#terminal-ladder [data-step]")];
  const MARGIN_S = 5, MINT_S = 10, HEALTH_S = 5, ALIVE_MS = 20000, ACK_BYTES = 16384, PIECE = 16384, UNSENT = 1048576;
  const LATE = { open_sent: "terminal_node_stream_timeout", node_stream: "terminal_node_stream_timeout", pty: "terminal_pty_failed" };
  const THEMES = {
    dark: { background: "#0b0f14", foreground: "#dfe6ee", cursor: "#6cb2f0", selectionBackground: "#2f4a66" },
    light: {
      background: "#fdfdfd", foreground: "#1c2430", cursor: "#1f6fb5", selectionBackground: "#bcd9f5",
      yellow: "#7a5b00", green: "#19764a", brightYellow: "#8a5a00", brightGreen: "#19764a", white: "#5b6675", brightWhite: "#1c2430", cyan: "#0b6b78", brightCyan: "#0b6b78",
    },
  };
  const darkness = matchMedia("(prefers-color-scheme: dark)");
  const theme = () => (darkness.matches ? THEMES.dark : THEMES.light);
  const terminal = new Terminal({
    fontFamily: 'ui-monospace, SFMono-Regular, Menlo, Consolas, "DejaVu Sans Mono", monospace',
    fontSize: 14, scrollback: 5000, theme: theme(), minimumContrastRatio: 4.5, allowProposedApi: false,
  });
  const fit = new FitAddon.FitAddon();
  terminal.loadAddon(fit);
  terminal.open(document.getElementById("terminal-screen"));
  fit.fit();
  darkness.addEventListener("change", () => { terminal.options.theme = theme(); });
  new ResizeObserver(() => fit.fit()).observe(document.getElementById("terminal-screen"));

  let attempt = null;

  function show(state, text) {
    stateChip.dataset.state = state;
    stateChip.textContent = text;
    page.dataset.state = state;
  }

  function mark(name, state, text) {
    const step = steps.find((one) => one.dataset.step === name);
    if (!step) return;
    step.dataset.state = state;
    step.querySelector("i").textContent = text;
  }

  function took(one, name, elapsed) {
    mark(name, "done", `${elapsed.toFixed(2)} s`);
    const next = steps[steps.findIndex((step) => step.dataset.step === name) + 1];
    one.at = next ? next.dataset.step : null;
    clearTimeout(one.timer);
    if (!one.at) return;
    mark(one.at, "now", "…");
    if (one.waits) one.timer = setTimeout(() => late(one), (one.waits[one.at] + MARGIN_S) * 1000);
  }

  function late(one) {
    fail(one, LATE[one.at] || "terminal_gateway_upgrade_failed", { detail: "The server said nothing more in time", seen: true });
  }

  function fail(one, code, { detail, seen, message }) {
    if (one !== attempt || one.over) return;
    one.over = true;
    clearTimeout(one.timer);
    const told = [...document.querySelectorAll("#terminal-failures [data-code]")].find((dd) => dd.dataset.code === code);
    const failure = message || { code, detail, meaning: told.dataset.meaning, next_action: told.dataset.next_action };
    failure.correlation_id = failure.correlation_id || one.correlation;
    for (const part of failureBox.querySelectorAll("[data-part]")) part.textContent = failure[part.dataset.part] || "";
    failureBox.hidden = false;
    if (one.at) mark(one.at, "failed", "failed");
    show("failed", `Failed: ${code}`);
    if (one.socket) one.socket.close();
    if (seen) report(one, code, detail);
  }

  // What only this page can see is told to the server, so that its log and the evidence have it too.
  function report(one, code, detail) {
    post(page.dataset.report, one.correlation, { code, detail }, MINT_S).catch(() => {});
  }

  function post(address, correlation, body, limit) {
    return fetch(address, {
      method: "POST", body: JSON.stringify(body), redirect: "error", keepalive: true, signal: AbortSignal.timeout(limit * 1000),
      headers: { "Content-Type": "application/json", "X-Correlation-ID": correlation, Accept: "application/json" },
    });
  }

  function newCorrelation() {
    return [...crypto.getRandomValues(new Uint8Array(16))].map((byte) => byte.toString(16).padStart(2, "0")).join("");
  }

  async function connect() {
    if (attempt) drop(attempt);
    const one = { correlation: newCorrelation(), began: performance.now(), at: "token", over: false, ready: false, unacked: 0 };
    attempt = one;
    failureBox.hidden = true;
    terminal.reset();
    for (const step of steps) mark(step.dataset.step, "waiting", "");
    mark("token", "now", "…");
    show("connecting", "Connecting…");
    if (!(await mint(one)) || !(await isRouted(one))) return;
    if (one === attempt) openSocket(one);
  }

  async function mint(one) {
    let answer, body;
    try {
      answer = await post(page.dataset.mint, one.correlation, { columns: terminal.cols, rows: terminal.rows }, MINT_S);
      body = await answer.json();
    } catch (problem) {
      fail(one, "terminal_token_mint_failed", { detail: `The server gave no answer that can be read (${problem.name})`, seen: true });
      return false;
    }
    if (!answer.ok) {
      const error = body.error || {};
      fail(one, "terminal_token_mint_failed", { detail: `${error.message || "no reason given"} (HTTP ${answer.status} ${error.code || ""})` });
      return false;
    }
    one.correlation = body.correlation_id;
    one.token = body.token;
    one.waits = body.waits_s;
    took(one, "token", (performance.now() - one.began) / 1000);
    return true;
  }

  async function isRouted(one) {
    let detail;
    try {
      const answer = await fetch(page.dataset.health, { redirect: "error", cache: "no-store", signal: AbortSignal.timeout(HEALTH_S * 1000) });
      const body = answer.ok ? await answer.json() : {};
      if (body.terminal === "vetting-orchestrator") return true;
      detail = `GET ${page.dataset.health} was answered with HTTP ${answer.status}`;
    } catch (problem) {
      detail = `GET ${page.dataset.health} had no answer that can be read (${problem.name})`;
    }
    fail(one, "terminal_public_route_missing", { detail, seen: true });
    return false;
  }

  function openSocket(one) {
    const address = new URL(page.dataset.socket, location.href);
    address.protocol = address.protocol === "https:" ? "wss:" : "ws:";
    const socket = (one.socket = new WebSocket(address));
    socket.binaryType = "arraybuffer";
    socket.onopen = () => { one.opened = true; socket.send(JSON.stringify({ token: one.token })); one.token = null; };
    socket.onmessage = (event) => { if (one === attempt) take(one, event.data); };
    socket.onclose = (event) => closed(one, event);
  }

  function closed(one, event) {
    if (one !== attempt || one.over) return;
    const how = `code ${event.code}${event.reason ? `: ${event.reason}` : ""}`;
    if (one.ready) end(one, `the connection was lost (${how})`);
    else if (one.opened) fail(one, "terminal_gateway_upgrade_failed", { detail: `The WebSocket was closed before the terminal was ready (${how})`, seen: true });
    else fail(one, "terminal_gateway_upgrade_failed", { detail: `The WebSocket could not be opened (${how})`, seen: true });
  }

  function take(one, data) {
    if (typeof data !== "string") {
      const bytes = new Uint8Array(data);
      terminal.write(bytes, () => acknowledge(one, bytes.length));
      return;
    }
    const message = JSON.parse(data);
    if (message.type === "step") took(one, message.step, message.elapsed_s);
    else if (message.type === "ready") begin(one);
    else if (message.type === "failed") fail(one, message.code, { message });
    else if (message.type === "ended") end(one, message.reason + (message.status ? `, status ${message.status}` : ""));
    else if (message.type === "note") terminal.write(`\r\n\x1b[7m ${message.text} \x1b[0m\r\n`);
  }

  function begin(one) {
    one.ready = true;
    clearTimeout(one.timer);
    show("ready", "Ready");
    fit.fit();
    tell(one, { type: "resize", columns: terminal.cols, rows: terminal.rows });
    one.alive = setInterval(() => tell(one, { type: "alive" }), ALIVE_MS);
    terminal.focus();
  }

  function end(one, reason) {
    one.over = true;
    clearTimeout(one.timer);
    clearInterval(one.alive);
    clearTimeout(one.acking);
    terminal.write(`\r\n\x1b[7m The terminal has ended: ${reason} \x1b[0m\r\n`);
    show("ended", `Ended: ${reason}`);
    one.socket.close();
  }

  function drop(one) {
    one.over = true;
    clearTimeout(one.timer);
    clearInterval(one.alive);
    clearTimeout(one.acking);
    if (one.socket) one.socket.close();
  }

  function tell(one, message) {
    if (one && one.socket && one.socket.readyState === WebSocket.OPEN) one.socket.send(JSON.stringify(message));
  }

  // The host goes on only when this screen has taken what it sent.
  function acknowledge(one, bytes) {
    one.unacked += bytes;
    if (one.unacked >= ACK_BYTES) sendAck(one);
    else if (!one.acking) one.acking = setTimeout(() => sendAck(one), 30);
  }

  function sendAck(one) {
    clearTimeout(one.acking);
    one.acking = null;
    if (one.unacked) tell(one, { type: "ack", bytes: one.unacked });
    one.unacked = 0;
  }

  function type(bytes) {
    if (!attempt || !attempt.ready || attempt.over) return;
    if (attempt.socket.bufferedAmount + bytes.length > UNSENT) {
      terminal.write("\r\n\x1b[7m Too much input at once: it was dropped \x1b[0m\r\n");
      return;
    }
    for (let at = 0; at < bytes.length; at += PIECE) attempt.socket.send(bytes.subarray(at, at + PIECE));
  }

  const encoder = new TextEncoder();
  terminal.onData((text) => type(encoder.encode(text)));
  terminal.onBinary((text) => type(Uint8Array.from(text, (character) => character.charCodeAt(0))));
  terminal.onResize(({ cols, rows }) => { if (attempt && attempt.ready) tell(attempt, { type: "resize", columns: cols, rows }); });
  terminal.attachCustomKeyEventHandler((event) => {
    if (event.type !== "keydown" || !event.ctrlKey || !event.shiftKey || event.code !== "KeyC") return true;
    copy();
    event.preventDefault();
    return false;
  });

  function copy() {
    const text = terminal.getSelection();
    if (text) navigator.clipboard.writeText(text).catch(() => {});
    terminal.focus();
  }

  document.getElementById("terminal-copy").addEventListener("click", copy);
  document.getElementById("terminal-paste").addEventListener("click", () => {
    navigator.clipboard.readText().then((text) => terminal.paste(text)).catch(() => {});
    terminal.focus();
  });
  document.getElementById("terminal-reader").addEventListener("change", (event) => {
    terminal.options.screenReaderMode = event.target.checked;
  });
  document.getElementById("terminal-connect").addEventListener("click", connect);
  addEventListener("pagehide", () => { if (attempt) drop(attempt); });
  connect();
})();
