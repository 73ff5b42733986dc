// Charts that grow: one for each kind of quantity, stage bands behind, limits across, cursors joined.
"use strict";

class LiveChart {
  static MOST_SERIES = 24;

  constructor(subject, place, shared) {
    this.subject = subject;
    this.shared = shared;
    this.times = [];
    this.columns = new Map(); // name -> {unit, values}
    this.box = document.createElement("figure");
    this.box.className = "chart";
    this.box.innerHTML = "<h3></h3><div></div>";
    this.box.querySelector("h3").textContent = subject.name;
    this.box.style.order = subject.order ?? 99;
    place.append(this.box);
    this.plot = null;
    this.due = false;
    new ResizeObserver(() => this.fit()).observe(this.box);
  }

  add(time, name, unit, value) {
    let column = this.columns.get(name);
    if (!column) {
      if (this.columns.size >= LiveChart.MOST_SERIES) return;
      column = { unit, values: new Array(this.times.length).fill(null) };
      this.columns.set(name, column);
      this.stale = true; // uPlot takes its series at birth
    }
    const at = this.place(time);
    column.values[at] = value;
  }

  // The index of this second, made if it is not there. New ones come at the end, late ones are let in.
  place(time) {
    const second = Math.round(time);
    let at = this.times.length;
    while (at > 0 && this.times[at - 1] > second) at -= 1;
    if (at > 0 && this.times[at - 1] === second) return at - 1;
    this.times.splice(at, 0, second);
    for (const column of this.columns.values()) column.values.splice(at, 0, null);
    return at;
  }

  draw() {
    if (this.due) return;
    this.due = true;
    requestAnimationFrame(() => {
      this.due = false;
      const data = [this.times, ...[...this.columns.values()].map((one) => one.values)];
      if (!this.plot || this.stale) { this.stale = false; this.plot?.destroy(); this.plot = this.make(data); } else this.plot.setData(data);
    });
  }

  fit() {
    if (this.plot) this.plot.setSize({ width: this.width(), height: 230 });
  }

  width() { return Math.max(260, this.box.clientWidth); }

  make(data) {
    const css = getComputedStyle(document.documentElement);
    const color = (name) => css.getPropertyValue(`--${name}`).trim();
    const units = new Set([...this.columns.values()].map((one) => one.unit));
    const axis = { stroke: color("soft"), grid: { stroke: color("line"), width: 1 }, ticks: { stroke: color("line"), width: 1 }, font: "12px system-ui, sans-serif" };
    const limits = () => this.shared.limits.filter((one) => one.subject === this.subject.name);
    return new uPlot({
      width: this.width(), height: 230,
      cursor: { sync: { key: "run" }, drag: { x: true, y: false } },
      scales: {
        y: {
          range: (_, low, high) => {
            // A limit is shown when the values come near it: one far away would flatten them.
            for (const one of limits()) if (one.value <= high * 1.6) high = Math.max(high, one.value);
            if (low === null || low === undefined) return [0, 1];
            if (this.subject.zero) low = Math.min(0, low);
            const room = Math.max((high - low) * 0.08, 1e-6, Math.abs(high) * 0.01);
            return [this.subject.zero && low === 0 ? 0 : low - room, high + room];
          },
        },
      },
      axes: [{ ...axis, space: 70, values: LiveChart.times }, { ...axis, size: 58, values: (_, ticks) => ticks.map((one) => `${one}${units.size === 1 ? " " + LiveChart.unit([...units][0]) : ""}`) }],
      series: [
        { label: "Time", value: (_, time) => (time ? LiveChart.clock(time, true) : "–") },
        ...[...this.columns].map(([name, one], number) => ({
          label: name, stroke: number < 7 ? color(`hue${number}`) : color("other"), width: number < 7 ? 1.6 : 1, spanGaps: true, points: { show: this.times.length < 3 },
          value: (_, value) => (value === null || value === undefined ? "–" : `${Math.round(value * 10) / 10} ${LiveChart.unit(one.unit)}`),
        })),
      ],
      hooks: {
        drawClear: [(plot) => this.bands(plot, color)],
        draw: [(plot) => this.limits(plot, limits(), color)],
      },
    }, data, this.box.querySelector("div"));
  }

  bands(plot, color) {
    const { ctx, bbox } = plot;
    ctx.save();
    ctx.beginPath();
    ctx.rect(bbox.left, bbox.top, bbox.width, bbox.height);
    ctx.clip();
    ctx.font = `${11 * devicePixelRatio}px system-ui, sans-serif`;
    this.shared.bands.forEach((band, number) => {
      const left = plot.valToPos(Date.parse(band.from) / 1000, "x", true);
      const right = plot.valToPos((band.to ? Date.parse(band.to) : Date.now()) / 1000, "x", true);
      if (right < bbox.left || left > bbox.left + bbox.width) return;
      ctx.fillStyle = band.passed === false ? color("bad-back") : number % 2 ? color("sunk") : color("band");
      ctx.fillRect(left, bbox.top, Math.max(1, right - left), bbox.height);
      if (right - left > 34 * devicePixelRatio) {
        ctx.fillStyle = color("soft");
        ctx.fillText(band.stage, Math.max(left, bbox.left) + 4, bbox.top + 13 * devicePixelRatio, right - Math.max(left, bbox.left) - 6);
      }
    });
    ctx.restore();
  }

  limits(plot, limits, color) {
    const { ctx, bbox } = plot;
    for (const one of limits) {
      const y = plot.valToPos(one.value, "y", true);
      if (y < bbox.top || y > bbox.top + bbox.height) continue;
      ctx.save();
      ctx.strokeStyle = color("bad");
      ctx.fillStyle = color("bad");
      ctx.setLineDash([6, 5]);
      ctx.beginPath();
      ctx.moveTo(bbox.left, y);
      ctx.lineTo(bbox.left + bbox.width, y);
      ctx.stroke();
      ctx.font = `${11 * devicePixelRatio}px system-ui, sans-serif`;
      ctx.textAlign = "right";
      ctx.fillText(one.name, bbox.left + bbox.width - 4, y - 4);
      ctx.restore();
    }
  }

  static clock(time, seconds) {
    const moment = new Date(time * 1000);
    return moment.toLocaleTimeString("en-GB", { hour: "2-digit", minute: "2-digit", ...(seconds ? { second: "2-digit" } : {}) });
  }

  // The day stands at the first tick and at each midnight.
  static times(_, ticks) {
    const seconds = ticks.length > 1 && ticks[1] - ticks[0] < 60;
    let day = "";
    return ticks.map((one) => {
      const date = new Date(one * 1000).toLocaleDateString("en-CA").slice(5);
      const first = date !== day && day !== "";
      day = date;
      return LiveChart.clock(one, seconds) + (first ? `\n${date}` : "");
    });
  }

  static unit(unit) { return unit === "degC" || unit === "C" ? "°C" : unit; }
}

class LiveCharts {
  constructor(facts, place) {
    this.subjects = facts.subjects.map((one, order) => ({ ...one, order }));
    this.shared = { bands: facts.bands, limits: facts.limits };
    this.place = place;
    this.charts = new Map();
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => {
      for (const chart of this.charts.values()) { chart.stale = true; chart.draw(); }
    });
  }

  add(time, kind, key, value, unit) {
    if (!Number.isFinite(time) || !Number.isFinite(value)) return;
    const subject = this.subjects.find((one) => one.units.includes(unit)) || { name: kind, units: [unit], zero: true };
    let chart = this.charts.get(subject.name);
    if (!chart) this.charts.set(subject.name, (chart = new LiveChart(subject, this.place, this.shared)));
    chart.add(time, key || kind, unit, value);
  }

  draw() {
    document.getElementById("no-charts").hidden = this.charts.size > 0;
    for (const chart of this.charts.values()) chart.draw();
  }

  mark(facts) {
    Object.assign(this.shared, facts);
    for (const chart of this.charts.values()) chart.plot?.redraw();
  }
}
