// The node and GPU pages: numbers and charts of one subject, live.

import { Board } from "./charts.js";
import { fullTime, quantity, span, text } from "./format.js";
import { Live } from "./socket.js";
import { say } from "./words.js";

const root = document.getElementById("subject");
const first = JSON.parse(document.getElementById("snapshot").textContent);
const specs = JSON.parse(document.getElementById("chart-specs").textContent);
const events = JSON.parse(document.getElementById("chart-events").textContent);
const reasons = JSON.parse(document.getElementById("words").textContent).reasons ?? {};
const stale = document.getElementById("stale");
const board = new Board(document.getElementById("charts"), specs, events);

function fill(target, value, unit) {
  const shown = quantity(value, unit);
  if (target.textContent !== shown.textContent) target.replaceChildren(shown);
}

function heldBy(bits) {
  if (bits === null) return "–";
  const names = Object.entries(reasons).filter(([bit]) => bits & Number(bit)).map(([, name]) => name);
  return names.join(", ") || "–";
}

function showNumbers(scope, row) {
  for (const list of document.querySelectorAll(`[data-numbers="${scope}"]`)) {
    for (const target of list.querySelectorAll("[data-number]")) fill(target, row[target.dataset.number], target.dataset.unit);
  }
}

function showCell(target, gpu) {
  const value = gpu[target.dataset.from ?? "sample"][target.dataset.cell];
  if (target.dataset.unit === "reasons") target.textContent = heldBy(value);
  else if (target.dataset.bar) {
    let bar = target.querySelector("progress");
    if (!bar) {
      bar = document.createElement("progress");
      bar.setAttribute("aria-hidden", "true");
      bar.max = Number(target.dataset.bar);
      target.replaceChildren(bar, document.createElement("span"));
    }
    bar.value = value ?? 0;
    target.lastChild.textContent = text(value, target.dataset.unit);
  } else fill(target, value, target.dataset.unit);
}

function showGpus(gpus) {
  for (const gpu of gpus) {
    const row = document.querySelector(`tr[data-gpu="${CSS.escape(gpu.uuid)}"]`);
    if (!row) continue;
    row.classList.toggle("stale", !gpu.live);
    for (const target of row.querySelectorAll("[data-cell]")) showCell(target, gpu);
  }
}

function showAge(data) {
  stale.hidden = data.live;
  document.getElementById("content").classList.toggle("stale-page", !data.live);
  if (!data.live && data.at_us > 0) {
    document.getElementById("last-sample").textContent = say("last_sample", { time: fullTime(new Date(data.at_us / 1000)), span: span((data.as_of_us - data.at_us) / 1e6) });
  }
}

function rowsOf(data) {
  const rows = new Map();
  const add = (table, subject, atUs, row) => atUs > 0 && rows.set(`${table}/${subject}`, { at_ms: atUs / 1000, row });
  if (data.panel === "node") {
    add("node_sample", data.node, data.at_us, data.host);
    for (const gpu of data.gpus) add("gpu_sample", gpu.uuid, gpu.at_us, gpu.sample);
  } else add("gpu_sample", data.uuid, data.at_us, data.sample);
  return rows;
}

function show(data) {
  if (data.gone) {
    stale.hidden = false;
    return;
  }
  if (data.panel === "node") {
    showNumbers("host", data.host);
    showGpus(data.gpus);
  } else {
    showNumbers("sample", data.sample);
    showNumbers("health", data.health);
  }
  showAge(data);
  board.append(rowsOf(data), data.as_of_us / 1000);
}

let started = false;

function snapshot(data) {
  // After a loss the charts may miss points: they are fetched again.
  if (started) board.load();
  started = true;
  show(data);
}

if (first) {
  show(first);
  const { panel, subject } = root.dataset;
  new Live({ panel, [panel]: subject }, { snapshot, update: show }, document.getElementById("live"));
}
