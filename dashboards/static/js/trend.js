// A small uPlot chart over the fleet's last minutes, labelled above the plot and not in a legend.

import { token, tokens } from "./colours.js";
import { clockTime, text } from "./format.js";
import { say } from "./words.js";

// Bytes step by powers of two, so that ticks are round numbers of KiB and MiB.
export function steps(unit) {
  return unit.startsWith("B") ? Array.from({ length: 50 }, (_, i) => 2 ** i) : undefined;
}

export class TrendChart {
  constructor(figure) {
    this.figure = figure;
    this.names = figure.dataset.trends.split(",");
    this.unit = figure.dataset.unit;
    this.plot = figure.querySelector(".plot");
    this.now = figure.querySelector(".now");
    new ResizeObserver(() => this.chart?.setSize({ width: this.plot.clientWidth, height: this.plot.clientHeight })).observe(this.plot);
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => this.make());
  }

  make() {
    this.chart?.destroy();
    const colours = tokens();
    const axis = { stroke: colours["ink-3"], grid: { stroke: colours.line, width: 1 }, ticks: { show: false }, font: "11px Inter, system-ui, sans-serif" };
    const options = {
      width: this.plot.clientWidth,
      height: this.plot.clientHeight,
      padding: [8, 8, 0, 0],
      cursor: { y: false, points: { size: 5 } },
      legend: { show: false },
      scales: { x: { time: true }, y: { range: (_, low, high) => [Math.min(0, low ?? 0), Math.max(this.unit === "%" ? 5 : 1, (high ?? 1) * 1.1)] } },
      axes: [
        { ...axis, size: 22, space: 80, values: (_, ticks) => ticks.map((tick) => clockTime(new Date(tick * 1000)).slice(0, ticks.at(-1) - ticks[0] < 180 ? 8 : 5)) },
        { ...axis, size: 62, space: 28, incrs: steps(this.unit), values: (_, ticks) => ticks.map((tick) => text(tick, this.unit)) },
      ],
      series: [{}, ...this.names.map((name, i) => ({ stroke: colours.series[i], width: 1.5, points: { show: false }, fill: this.names.length === 1 ? token("--accent-soft") : undefined }))],
    };
    this.chart = new uPlot(options, this.data, this.plot);
    const labels = this.figure.querySelector(".labels");
    labels.replaceChildren(...this.names.map((name, i) => {
      const label = document.createElement("span");
      label.textContent = say(name);
      label.style.color = colours.series[i];
      return label;
    }));
  }

  show(trends, nowUs) {
    const length = Math.max(...this.names.map((name) => trends[name]?.length ?? 0));
    const end = nowUs / 1e6;
    this.data = [Array.from({ length }, (_, i) => end - (length - 1 - i)), ...this.names.map((name) => trends[name] ?? new Array(length).fill(null))];
    if (this.chart) this.chart.setData(this.data);
    else this.make();
    this.now.textContent = this.names.map((name) => text(trends[name]?.at(-1) ?? null, this.unit)).join(" · ");
  }
}
