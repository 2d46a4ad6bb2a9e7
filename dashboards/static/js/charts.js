// The charts of a page: columns from the server, drawn by Plotly (few lines) or uPlot (many), kept live at the right edge.

import { tokens } from "./colours.js";
import { clockTime, text } from "./format.js";
import { steps } from "./trend.js";
import { say } from "./words.js";

// One configuration for all: nothing of a chart ever leaves for a third party.
export const PLOTLY = { displaylogo: false, showSendToCloud: false, plotlyServerURL: "", responsive: false, displayModeBar: "hover", modeBarButtonsToRemove: ["select2d", "lasso2d", "autoScale2d"], locale: document.documentElement.lang === "zh-hans" ? "zh-CN" : "en" };
const REFETCH_MS = 60000;

class Chart {
  constructor(spec, events) {
    this.spec = spec;
    this.events = events;
    this.figure = document.getElementById(`chart-${spec.id}`);
    this.plot = this.figure.querySelector(".plot");
    this.now = this.figure.querySelector(".now");
    this.labels = this.figure.querySelector(".labels");
    this.seen = false;
    this.revision = 0;
    new IntersectionObserver((entries) => {
      this.seen = entries.at(-1).isIntersecting;
      if (this.seen) this.draw();
    }).observe(this.plot);
    new ResizeObserver(() => this.resize()).observe(this.plot);
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => this.restyle());
  }

  // Columns by "table/subject": { t_ms, columns, from_ms, to_ms, step_s }.
  load(found) {
    this.lines = this.spec.lines.map((line, i) => {
      const source = found.get(`${line.table}/${line.subject}`);
      const column = source?.columns[line.metric] ?? [];
      return { ...line, hue: i, x: [...(source?.t_ms ?? [])], y: column.map((value) => (value === null ? null : value * line.factor)) };
    });
    const first = found.values().next().value;
    this.step = first ? first.step_s * 1000 : 1000;
    this.from = first?.from_ms;
    this.to = first?.to_ms;
    this.lines = this.lines.filter((line, i) => line.y.some((value) => value !== null) || (i === 0 && this.spec.lines.length === 1));
    this.revision += 1;
    this.caption();
    this.draw();
  }

  // Append one point a line: rows by "table/subject" -> { at_ms, row }. A pause becomes a gap.
  append(rows, nowMs) {
    if (!this.lines) return;
    let moved = false;
    for (const line of this.lines) {
      const newest = rows.get(`${line.table}/${line.subject}`);
      const last = line.x.at(-1) ?? 0;
      if (!newest || newest.at_ms <= last) continue;
      if (newest.at_ms - last < this.step * 0.6) continue;
      if (last && newest.at_ms - last > Math.max(3500, this.step * 2.5)) {
        line.x.push(last + 1);
        line.y.push(null);
      }
      const value = newest.row[line.metric];
      line.x.push(newest.at_ms);
      line.y.push(value === null || value === undefined ? null : value * line.factor);
      moved = true;
    }
    const width = this.to - this.from;
    this.to = nowMs;
    this.from = nowMs - width;
    for (const line of this.lines) {
      while (line.x.length && line.x[0] < this.from - this.step) {
        line.x.shift();
        line.y.shift();
      }
    }
    this.revision += 1;
    if (moved) this.caption();
    this.draw();
  }

  caption() {
    const colours = tokens().series;
    this.now.textContent = this.lines.length && this.lines.length <= 4 ? this.lines.map((line) => this.value(line.y.at(-1))).join(" · ") : "";
    const named = this.lines.map((line) => {
      const label = document.createElement("span");
      label.textContent = line.label;
      label.style.color = colours[line.hue % colours.length];
      return label;
    });
    this.labels.replaceChildren(...(named.length <= 16 ? named : []));
  }

  value(number) {
    return number === null || number === undefined ? "–" : text(number, this.spec.unit);
  }

  draw() {
    if (!this.seen || !this.lines || document.visibilityState === "hidden") return;
    const known = this.lines.some((line) => line.y.some((value) => value !== null));
    if (!known) this.nothing(say("no_series"));
    else if (this.spec.engine === "plotly") this.drawPlotly();
    else this.drawUplot();
  }

  nothing(words) {
    if (this.made) {
      if (this.spec.engine === "plotly") Plotly.purge(this.plot);
      else this.made.destroy();
      this.made = null;
    }
    this.plot.classList.add("none");
    this.plot.textContent = words;
  }

  ready() {
    if (!this.made) {
      this.plot.classList.remove("none");
      this.plot.textContent = "";
      this.colours = tokens();
    }
  }

  top() {
    if (this.spec.maximum !== null) return this.spec.maximum * 1.02;
    let high = 0;
    for (const line of this.lines) for (const value of line.y) if (value > high) high = value;
    const limits = this.spec.limits.map((limit) => limit.value).filter((value) => value <= high * 3);
    const least = this.spec.unit.startsWith("B") ? 4096 : this.spec.unit === "%" ? 5 : 1;
    return Math.max(least, high * 1.12, ...limits.map((value) => value * 1.09));
  }

  // Round ticks in the unit a person reads: bytes step by powers of two.
  ticks(top) {
    const binary = this.spec.unit.startsWith("B");
    const base = binary ? 2 ** Math.floor(Math.log2(top / 4)) : 10 ** Math.floor(Math.log10(top / 4));
    const step = base * (binary ? (top / base > 6 ? 2 : 1) : [1, 2, 2.5, 5, 10].find((factor) => top / (base * factor) <= 5) ?? 10);
    const values = [];
    for (let value = 0; value <= top; value += step) values.push(value);
    return values;
  }

  plotlyLayout(top) {
    const c = this.colours;
    const ticks = this.ticks(top);
    const axis = { gridcolor: c.line, zeroline: false, linecolor: c.line, tickfont: { color: c["ink-3"], size: 11 }, fixedrange: false };
    const limits = this.spec.limits.filter((limit) => limit.value <= top).sort((a, b) => a.value - b.value);
    return {
      margin: { l: 66, r: 8, t: 6, b: 24 },
      paper_bgcolor: "rgba(0,0,0,0)",
      plot_bgcolor: "rgba(0,0,0,0)",
      font: { family: "Inter, system-ui, sans-serif", size: 11, color: c["ink-2"] },
      showlegend: false,
      hovermode: "x unified",
      hoverlabel: { bgcolor: c.panel, bordercolor: c.line, font: { color: c.ink, size: 11.5 } },
      uirevision: "keep",
      datarevision: this.revision,
      xaxis: { ...axis, type: "date", range: [local(this.from), local(this.to)], nticks: 6, showgrid: false, tickformat: this.to - this.from > 36 * 3600e3 ? "%m-%d" : "%H:%M", hoverformat: "%Y-%m-%d %H:%M:%S" },
      yaxis: { ...axis, range: [0, top], tickvals: ticks, ticktext: ticks.map((tick) => text(tick, this.spec.unit)) },
      shapes: [
        ...limits.map((limit) => ({ type: "line", xref: "paper", x0: 0, x1: 1, y0: limit.value, y1: limit.value, line: { color: c.bad, width: 1, dash: "dash" } })),
        ...this.events.map(([at, level]) => ({ type: "line", x0: local(at), x1: local(at), yref: "paper", y0: 0, y1: 1, line: { color: level === "critical" ? c.bad : level === "warning" ? c.warn : c.info, width: 1, dash: "dot" } })),
      ],
      annotations: limits.map((limit, i) => ({ xref: "paper", x: 1, xanchor: "right", y: limit.value, yanchor: i < limits.length - 1 ? "top" : "bottom", text: escapeText(`${limit.label} ${text(limit.value, this.spec.unit)}`), showarrow: false, font: { color: c.bad, size: 10.5 } })),
    };
  }

  drawPlotly() {
    this.ready();
    const top = this.top();
    const c = this.colours;
    const traces = this.lines.map((line) => ({
      type: "scatter", mode: "lines", name: escapeText(line.label), x: line.x.map(local), y: line.y, connectgaps: false,
      customdata: line.y.map((value) => this.value(value)), hovertemplate: "%{customdata}",
      line: { color: c.series[line.hue % c.series.length], width: 1.4, dash: line.dashed ? "dash" : line.hue >= 8 ? "dot" : "solid" },
    }));
    if (this.events.length) traces.push(this.eventTrace(top));
    this.made = true;
    Plotly.react(this.plot, traces, this.plotlyLayout(top), PLOTLY);
  }

  eventTrace(top) {
    const c = this.colours;
    const inView = this.events.filter(([at]) => at >= this.from && at <= this.to);
    return {
      type: "scatter", mode: "markers", name: say("events"), x: inView.map(([at]) => local(at)), y: inView.map(() => top * 0.97), text: inView.map(([, , message]) => escapeText(message).slice(0, 120)), hovertemplate: "%{text}",
      marker: { symbol: inView.map(([, level]) => (level === "critical" ? "triangle-up" : level === "warning" ? "diamond" : "circle")), size: 8, color: inView.map(([, level]) => (level === "critical" ? c.bad : level === "warning" ? c.warn : c.info)) },
    };
  }

  drawUplot() {
    this.ready();
    const data = align(this.lines);
    if (this.made) {
      this.made.setData(data, false);
      this.made.setScale("x", { min: this.from / 1000, max: this.to / 1000 });
      return;
    }
    const c = this.colours;
    const axis = { stroke: c["ink-3"], grid: { stroke: c.line, width: 1 }, ticks: { show: false }, font: "11px Inter, system-ui, sans-serif" };
    this.made = new uPlot({
      width: this.plot.clientWidth, height: this.plot.clientHeight, padding: [8, 8, 0, 0], legend: { show: false }, cursor: { y: false },
      scales: { x: { time: true, auto: false, range: () => [this.from / 1000, this.to / 1000] }, y: { range: () => [0, this.top()] } },
      axes: [{ ...axis, size: 24, values: (_, ticks) => ticks.map((tick) => clockTime(new Date(tick * 1000)).slice(0, 5)) }, { ...axis, size: 58, incrs: steps(this.spec.unit), values: (_, ticks) => ticks.map((tick) => text(tick, this.spec.unit)) }],
      series: [{}, ...this.lines.map((line) => ({ label: line.label, stroke: c.series[line.hue % c.series.length], width: 1, spanGaps: false, points: { show: false } }))],
    }, data, this.plot);
  }

  resize() {
    if (!this.made) return;
    if (this.spec.engine === "plotly") Plotly.Plots.resize(this.plot);
    else this.made.setSize({ width: this.plot.clientWidth, height: this.plot.clientHeight });
  }

  restyle() {
    if (!this.made) return;
    this.nothing("");
    this.draw();
  }
}

// Plotly has no time zones: it draws the wall clock it is given, so it gets the reader's.
function local(ms) {
  const date = new Date(ms);
  return new Date(ms - date.getTimezoneOffset() * 60000).toISOString().slice(0, 23).replace("T", " ");
}

// Plotly reads a small HTML in texts; agents must not write any.
function escapeText(words) {
  return String(words).replace(/[&<>]/g, (sign) => ({ "&": "&amp;", "<": "&lt;", ">": "&gt;" })[sign]);
}

// uPlot wants one x for all lines.
function align(lines) {
  const all = [...new Set(lines.flatMap((line) => line.x))].sort((a, b) => a - b);
  const place = new Map(all.map((x, i) => [x, i]));
  return [all.map((x) => x / 1000), ...lines.map((line) => {
    const column = new Array(all.length).fill(undefined);
    line.x.forEach((x, i) => (column[place.get(x)] = line.y[i]));
    return column;
  })];
}

export class Board {
  constructor(root, specs, events) {
    this.query = root.dataset.query;
    this.follow = root.dataset.follow === "yes";
    this.charts = specs.map((spec) => new Chart(spec, events));
    this.wanted = wantedColumns(specs);
    this.load();
    if (this.follow) setInterval(() => document.visibilityState === "visible" && this.load(), REFETCH_MS);
  }

  async load() {
    try {
      const points = Math.min(1200, Math.max(300, Math.round(innerWidth * 0.6)));
      const found = new Map();
      await Promise.all([...this.wanted].map(async ([key, metrics]) => {
        const path = key.split("/").map(encodeURIComponent).join("/");
        const answer = await fetch(`/series/${path}?metrics=${[...metrics].join(",")}&points=${points}&${this.query}`, { redirect: "error" });
        if (!answer.ok) throw new Error(`${answer.status}`);
        found.set(key, await answer.json());
      }));
      for (const chart of this.charts) chart.load(found);
    } catch {
      for (const chart of this.charts) if (!chart.lines) chart.nothing(say("series_failed"));
      setTimeout(() => this.load(), 5000);
    }
  }

  append(rows, nowMs) {
    if (this.follow) for (const chart of this.charts) chart.append(rows, nowMs);
  }
}

function wantedColumns(specs) {
  const wanted = new Map();
  for (const line of specs.flatMap((spec) => spec.lines)) {
    const key = `${line.table}/${line.subject}`;
    if (!wanted.has(key)) wanted.set(key, new Set());
    wanted.get(key).add(line.metric);
  }
  return wanted;
}
