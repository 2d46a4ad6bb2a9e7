// The fleet map: one canvas, one cell a GPU (or a host without), grouped by node; only cells that changed are redrawn.

import { fit, isLight, shade, tokens } from "./colours.js";
import { text } from "./format.js";
import { say } from "./words.js";

const STATES = { ".": "well", t: "slowed", f: "fault", s: "stale", m: "no_data", p: "waiting" };
const MAX_CELL = 30;
const MIN_CELL = 5;
const HOST_WIDTH = 4; // a host cell is as wide as this many GPU cells

export class FleetMap {
  // on: { hover(description), open(cell) , spoken(description) }
  constructor(root, on) {
    this.root = root;
    this.canvas = root.querySelector("canvas");
    this.on = on;
    this.cells = [];
    this.current = 0;
    this.focused = false;
    root.addEventListener("keydown", (event) => this.key(event));
    root.addEventListener("focus", () => this.focus(true));
    root.addEventListener("blur", () => this.focus(false));
    root.addEventListener("pointermove", (event) => this.point(event));
    root.addEventListener("pointerleave", () => this.leave());
    root.addEventListener("click", (event) => this.click(event));
    new ResizeObserver(() => this.resize()).observe(root);
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => this.resize());
  }

  setNodes(nodes) {
    this.nodes = nodes;
    this.cells = nodes.flatMap((node) => (node.gpus.length ? node.gpus.map((index) => ({ node, index })) : [{ node, index: null }]));
    this.width = 0;
    this.current = Math.min(this.current, Math.max(0, this.cells.length - 1));
  }

  // Apply a frame: { values, marks, scale, metric }.
  show(frame) {
    const before = this.frame;
    this.frame = frame;
    if (!this.width || this.root.clientWidth !== this.width || !before || before.metric !== frame.metric || before.scale.maximum !== frame.scale.maximum) this.resize();
    else {
      for (let i = 0; i < this.cells.length; i++) {
        if (before.values[i] !== frame.values[i] || before.marks[i] !== frame.marks[i]) this.draw(i);
      }
      if (this.focused) this.outline();
    }
    if (this.hovered !== undefined && this.hovered !== null) this.on.hover(this.describe(this.hovered));
    else if (this.focused) this.on.hover(this.describe(this.current));
  }

  resize() {
    if (!this.frame || !this.root.clientWidth) return;
    this.width = this.root.clientWidth;
    this.colours = tokens();
    this.place();
    this.context = fit(this.canvas, this.width, this.height);
    this.context.clearRect(0, 0, this.width, this.height);
    this.labels();
    for (let i = 0; i < this.cells.length; i++) this.draw(i);
    if (this.focused) this.outline();
  }

  // Take the largest cells with which the fleet fits a calm height; 8,000 GPUs take the smallest and a taller canvas.
  place() {
    const wanted = Math.max(150, Math.min(400, innerHeight * 0.42));
    for (let size = MAX_CELL; size >= MIN_CELL; size--) {
      this.layout(size);
      if (this.height <= wanted) break;
    }
  }

  layout(size) {
    const most = Math.max(1, ...this.nodes.map((node) => node.gpus.length || HOST_WIDTH));
    const perRow = Math.min(most, 16);
    const space = size >= 10 ? 2 : 1;
    const labelled = size >= 14;
    const block = perRow * (size + space) + (size >= 10 ? 14 : 6);
    const columns = Math.max(1, Math.floor((this.width + 14) / block));
    // Few nodes share the whole width, so that a small fleet does not huddle in a corner.
    const used = Math.min(columns, this.nodes.length || 1);
    const step = size === MAX_CELL ? (used === 1 ? this.width + 14 : Math.min(this.width / used, block * 2)) : this.width / columns;
    const widest = this.nodes.length === 1 ? Infinity : size * 2;
    const cellWidth = Math.min(widest, (step - (size >= 10 ? 14 : 6)) / perRow - space);
    const rows = Math.ceil(Math.max(...this.nodes.map((node) => (node.gpus.length || 1) / perRow), 1));
    const top = labelled ? 17 : 0;
    const blockHeight = top + rows * (size + space) + (size >= 10 ? 9 : 3);
    this.size = { width: cellWidth, height: size, labelled };
    this.boxes = [];
    this.titles = [];
    this.nodes.forEach((node, i) => {
      const x0 = (i % columns) * step;
      const y0 = Math.floor(i / columns) * blockHeight;
      this.titles.push([x0, y0 + 12, step - 10, node]);
      const count = node.gpus.length || 1;
      for (let g = 0; g < count; g++) {
        const width = node.gpus.length ? cellWidth : perRow * (cellWidth + space) - space;
        this.boxes.push([x0 + (g % perRow) * (cellWidth + space), y0 + top + Math.floor(g / perRow) * (size + space), width, size]);
      }
    });
    this.height = Math.ceil(this.nodes.length / columns) * blockHeight + 3;
  }

  labels() {
    if (!this.size.labelled) return;
    this.context.font = "11px Inter, system-ui, sans-serif";
    for (const [x, y, room, node] of this.titles) {
      this.context.fillStyle = this.colours["ink-2"];
      const suffix = node.simulated ? ` · ${say("simulated")}` : "";
      this.context.fillText(clip(this.context, node.name + suffix, room), x, y);
    }
  }

  draw(i) {
    const [x, y, width, height] = this.boxes[i];
    const { context, colours } = this;
    const mark = this.frame.marks[i];
    const value = this.frame.values[i];
    context.fillStyle = colours.panel;
    context.fillRect(x - 1, y - 1, width + 2, height + 2);
    context.fillStyle = this.fill(value, mark);
    context.fillRect(x, y, width, height);
    if (mark === "s" || mark === "p") this.hatch(x, y, width, height, mark === "p" ? colours.info : colours["ink-3"]);
    else if (mark === "m" || (value === null && this.frame.metric !== "health")) this.frameOnly(x, y, width, height);
    if (mark === "f" || mark === "t") this.sign(x, y, width, height, mark, value);
    if (mark === "." && value !== null && height >= 22 && width >= 40) this.number(x, y, width, height, value);
  }

  fill(value, mark) {
    if (this.frame.metric === "health") return { ".": this.colours.ok, t: this.colours.warn, f: this.colours.bad }[mark] ?? this.colours.raise;
    return value === null || mark === "m" || mark === "s" || mark === "p" ? this.colours.raise : shade(value, this.frame.scale);
  }

  hatch(x, y, width, height, colour) {
    const { context } = this;
    context.save();
    context.beginPath();
    context.rect(x, y, width, height);
    context.clip();
    context.strokeStyle = colour;
    context.lineWidth = 1;
    context.beginPath();
    for (let d = -height; d < width; d += 5) {
      context.moveTo(x + d, y + height);
      context.lineTo(x + d + height, y);
    }
    context.stroke();
    context.restore();
  }

  frameOnly(x, y, width, height) {
    this.context.strokeStyle = this.colours["ink-3"];
    this.context.lineWidth = 1;
    this.context.strokeRect(x + 0.5, y + 0.5, width - 1, height - 1);
  }

  sign(x, y, width, height, mark, value) {
    const { context, colours } = this;
    const room = Math.min(width, height);
    const s = Math.max(2.5, Math.min(6, room / 2 - 1));
    const cx = x + width / 2;
    const cy = y + height / 2;
    const up = mark === "f" ? 1 : -1;
    context.beginPath();
    context.moveTo(cx, cy - s * up);
    context.lineTo(cx + s, cy + s * up * 0.8);
    context.lineTo(cx - s, cy + s * up * 0.8);
    context.closePath();
    const light = this.frame.metric === "health" || (value !== null && isLight(value, this.frame.scale));
    context.fillStyle = mark === "f" ? colours.bad : light ? "rgb(20 24 30)" : "rgb(240 240 240)";
    context.fill();
    context.strokeStyle = light ? "rgb(20 24 30)" : "rgb(250 250 250)";
    context.lineWidth = 1;
    if (room >= 9) context.stroke();
  }

  number(x, y, width, height, value) {
    const { context } = this;
    context.font = "11.5px Inter, system-ui, sans-serif";
    context.fillStyle = isLight(value, this.frame.scale) ? "rgb(16 20 26)" : "rgb(236 240 245)";
    const label = text(value, this.frame.scale.unit);
    if (context.measureText(label).width > width - 6) return;
    context.textAlign = "center";
    context.textBaseline = "middle";
    context.fillText(label, x + width / 2, y + height / 2 + 0.5);
    context.textAlign = "start";
    context.textBaseline = "alphabetic";
  }

  outline() {
    const box = this.boxes[this.current];
    if (!box) return;
    this.context.strokeStyle = this.colours.ink;
    this.context.lineWidth = 2;
    this.context.strokeRect(box[0] - 0.5, box[1] - 0.5, box[2] + 1, box[3] + 1);
  }

  describe(i) {
    const cell = this.cells[i];
    if (!cell || !this.frame) return "";
    const value = this.frame.values[i];
    const parts = [cell.node.name, cell.index === null ? say("host") : say("gpu", { index: cell.index })];
    if (this.frame.metric !== "health") parts.push(`${say(this.frame.metric)} ${value === null ? say("no_data") : text(value, this.frame.scale.unit)}`);
    parts.push(say(STATES[this.frame.marks[i]] ?? "no_data"));
    if (cell.node.model) parts.push(cell.node.model);
    if (cell.node.simulated) parts.push(say("simulated"));
    return parts.join(" · ");
  }

  key(event) {
    if (event.altKey || event.ctrlKey || event.metaKey) return;
    if (event.key === "Enter") {
      this.on.open(this.cells[this.current]);
      return;
    }
    const next = this.next(event.key);
    if (next === null) return;
    event.preventDefault();
    this.move(next);
  }

  next(key) {
    const last = this.cells.length - 1;
    if (key === "ArrowRight") return Math.min(last, this.current + 1);
    if (key === "ArrowLeft") return Math.max(0, this.current - 1);
    if (key === "Home") return 0;
    if (key === "End") return last;
    if (key === "ArrowDown" || key === "ArrowUp") return this.above(key === "ArrowUp" ? -1 : 1);
    if (key === "PageDown" || key === "PageUp") return this.nodeStart(key === "PageUp" ? -1 : 1);
    return null;
  }

  // The nearest cell in the next row of cells up or down.
  above(direction) {
    const [x, y, width] = this.boxes[this.current];
    let best = this.current;
    let distance = Infinity;
    this.boxes.forEach((box, i) => {
      const drop = (box[1] - y) * direction;
      if (drop <= 0) return;
      const score = drop * 1000 + Math.abs(box[0] + box[2] / 2 - x - width / 2);
      if (score < distance) {
        distance = score;
        best = i;
      }
    });
    return best;
  }

  nodeStart(direction) {
    const here = this.cells[this.current].node;
    let i = this.current;
    while (i > 0 && this.cells[i - 1].node === here) i -= 1;
    const target = direction > 0 ? this.cells.findIndex((cell, j) => j > i && cell.node !== here) : i - 1;
    if (target < 0) return this.current;
    const node = this.cells[target].node;
    return this.cells.findIndex((cell) => cell.node === node);
  }

  move(i) {
    const before = this.current;
    this.current = i;
    for (const near of new Set([before, before - 1, before + 1])) if (this.boxes[near]) this.draw(near);
    this.redrawAround(before);
    this.outline();
    const said = this.describe(i);
    this.on.hover(said);
    this.on.spoken(said);
  }

  // The outline is wider than a cell, so its neighbours above and below are redrawn too.
  redrawAround(i) {
    const box = this.boxes[i];
    if (!box) return;
    this.boxes.forEach((other, j) => {
      if (Math.abs(other[1] - box[1]) <= box[3] + 12 && Math.abs(other[0] - box[0]) <= box[2] + 12) this.draw(j);
    });
  }

  focus(on) {
    this.focused = on;
    if (!this.frame || !this.boxes) return;
    if (on) {
      this.outline();
      const said = this.describe(this.current);
      this.on.hover(said);
      this.on.spoken(said);
    } else {
      this.redrawAround(this.current);
      this.on.hover("");
    }
  }

  at(event) {
    const edge = this.canvas.getBoundingClientRect();
    const x = event.clientX - edge.left;
    const y = event.clientY - edge.top;
    const found = (this.boxes ?? []).findIndex((box) => x >= box[0] - 1 && x < box[0] + box[2] + 1 && y >= box[1] - 1 && y < box[1] + box[3] + 1);
    return found < 0 ? null : found;
  }

  point(event) {
    const found = this.at(event);
    if (found === this.hovered) return;
    this.hovered = found;
    this.root.style.cursor = found === null ? "" : "pointer";
    this.on.hover(found === null ? "" : this.describe(found));
  }

  leave() {
    this.hovered = null;
    this.on.hover("");
  }

  click(event) {
    const found = this.at(event);
    if (found !== null) this.on.open(this.cells[found]);
  }
}

function clip(context, words, room) {
  if (context.measureText(words).width <= room) return words;
  let cut = words;
  while (cut.length > 1 && context.measureText(`${cut}…`).width > room) cut = cut.slice(0, -1);
  return `${cut}…`;
}
