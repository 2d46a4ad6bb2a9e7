// The overview page: tiles, map, attention, events, hosts, trends.

import { drawRamp, token } from "./colours.js";
import { ago, quantity, text } from "./format.js";
import { FleetMap } from "./map.js";
import { Live } from "./socket.js";
import { spark } from "./spark.js";
import { TrendChart } from "./trend.js";
import { say } from "./words.js";

const KEEP = 600; // seconds of trend
const first = JSON.parse(document.getElementById("snapshot").textContent);
const root = document.getElementById("overview");
const readout = document.getElementById("readout");
const spoken = document.getElementById("spoken");
const table = document.getElementById("map-table");
const asTable = document.getElementById("as-table");
const ramp = document.getElementById("ramp");

let metric = root.dataset.metric;
let nodes = first.nodes;
let trends = first.trends;
let layout = first.layout;
let latest = first;

function href(cell) {
  const node = `/nodes/${encodeURIComponent(cell.node.name)}/`;
  return cell.index === null ? node : `${node}gpus/${cell.index}/`;
}

const map = new FleetMap(document.getElementById("map"), {
  hover: (words) => (readout.textContent = words),
  spoken: (words) => (spoken.textContent = words),
  open: (cell) => cell && (location.href = href(cell)),
});

const charts = [...document.querySelectorAll("[data-trends]")].map((figure) => new TrendChart(figure));

function element(tag, className, content) {
  const made = document.createElement(tag);
  if (className) made.className = className;
  if (content !== undefined) made.textContent = content;
  return made;
}

function setText(target, words) {
  if (target.textContent !== words) target.textContent = words;
}

function showTiles(tiles) {
  for (const tile of tiles) {
    const box = document.querySelector(`[data-tile="${tile.key}"]`);
    if (!box) {
      location.reload(); // the fleet got its first GPU: other tiles, other charts
      return;
    }
    box.className = `tile ${tile.level}`;
    setText(box.querySelector(".v > span"), tile.value);
    setText(box.querySelector(".u"), tile.unit);
    setText(box.querySelector(".n"), tile.note);
    const bar = box.querySelector("progress");
    if (bar && tile.bar !== null) bar.value = tile.bar;
    const line = box.querySelector("canvas");
    if (line && trends[line.dataset.trend]) spark(line, trends[line.dataset.trend].slice(-120), token("--accent"));
  }
}

function lineItem(line, nowUs) {
  const item = element("li", line.level);
  const body = element("div");
  const link = element("a", "", line.text);
  link.href = line.href;
  body.append(link);
  if (line.detail) body.append(element("div", "m", line.detail));
  item.append(element("span", "sign"), body);
  if (line.at_us) {
    const when = element("span", "t", ago(line.at_us, nowUs));
    when.title = new Date(line.at_us / 1000).toLocaleString(document.documentElement.lang);
    item.append(when);
  }
  return item;
}

const shown = new Map();

function showLines(id, lines, emptyId, nowUs) {
  const list = document.getElementById(id);
  const signature = JSON.stringify(lines.map((line) => [line.text, line.detail, line.at_us && ago(line.at_us, nowUs)]));
  document.getElementById(emptyId).hidden = lines.length > 0;
  // A link that has the focus must not be pulled from under it.
  if (shown.get(id) === signature || list.contains(document.activeElement)) return;
  shown.set(id, signature);
  list.replaceChildren(...lines.map((line) => lineItem(line, nowUs)));
}

function cell(content, className = "n") {
  const made = element("td", className);
  if (content instanceof Node) made.append(content);
  else made.textContent = content;
  return made;
}

function bar(share, label) {
  const holder = element("span");
  const progress = element("progress");
  progress.max = 1;
  progress.value = share ?? 0;
  progress.setAttribute("aria-hidden", "true");
  holder.append(progress, document.createTextNode(label));
  return holder;
}

function hostRow(host, nowUs) {
  const row = element("tr", host.live ? "" : "stale");
  const name = element("th");
  name.scope = "row";
  const sign = element("span", `sign ${host.live ? "ok" : host.at_us ? "bad" : "off"}`);
  const link = element("a", "", host.name);
  link.href = `/nodes/${encodeURIComponent(host.name)}/`;
  name.append(sign, " ", link);
  if (host.simulated) name.append(" ", element("span", "pill sim", say("simulated")));
  if (!host.live && host.at_us) name.append(" ", element("span", "faint", ago(host.at_us, nowUs)));
  const memory = host.memory_used_bytes === null ? null : host.memory_used_bytes / host.memory_total_bytes;
  row.append(
    name,
    cell(String(host.gpus)),
    cell(bar(host.cpu_percent / 100, text(host.cpu_percent, "%")), ""),
    cell(quantity(host.load_1m, "")),
    cell(bar(memory, text(host.memory_used_bytes, "B")), ""),
    cell(quantity(host.cpu_pressure_percent, "%")),
    cell(quantity(host.io_pressure_percent, "%")),
    cell(quantity(host.network_rx_bytes_per_s, "B/s")),
    cell(quantity(host.network_tx_bytes_per_s, "B/s")),
  );
  return row;
}

function showHosts(hosts, nowUs) {
  const body = document.querySelector("#hosts tbody");
  if (body.contains(document.activeElement)) return;
  body.replaceChildren(...hosts.map((host) => hostRow(host, nowUs)));
}

const STATE_WORDS = { ".": "well", t: "slowed", f: "fault", s: "stale", m: "no_data", p: "waiting" };

function showTable(frame) {
  if (table.hidden || table.contains(document.activeElement)) return;
  const made = element("table");
  const head = made.createTHead().insertRow();
  for (const key of ["node", "gpu_column", "value", "state"]) {
    const heading = element("th", key === "value" ? "n" : "", key === "gpu_column" ? "GPU" : say(key));
    heading.scope = "col";
    head.append(heading);
  }
  const body = made.createTBody();
  map.cells.forEach((entry, i) => {
    const row = body.insertRow();
    const link = element("a", "", entry.node.name);
    link.href = href(entry);
    row.append(cell(link, ""), cell(entry.index === null ? say("host") : String(entry.index), ""), cell(text(frame.values[i], frame.scale.unit)), cell(say(STATE_WORDS[frame.marks[i]]), ""));
  });
  table.replaceChildren(made);
}

function showLegend(frame) {
  ramp.hidden = frame.metric === "health";
  setText(ramp.querySelector('[data-end="low"]'), text(frame.scale.minimum, frame.scale.unit));
  setText(ramp.querySelector('[data-end="high"]'), text(frame.scale.maximum, frame.scale.unit));
}

function show(frame) {
  latest = frame;
  showTiles(frame.tiles);
  map.show(frame);
  showLegend(frame);
  showTable(frame);
  showLines("attention", frame.attention, "calm", frame.as_of_us);
  setText(document.getElementById("attention-count"), String(frame.attention.length));
  showLines("events", frame.events, "quiet", frame.as_of_us);
  showHosts(frame.hosts, frame.as_of_us);
  for (const chart of charts) chart.show(trends, frame.as_of_us);
}

function snapshot(data) {
  nodes = data.nodes;
  trends = data.trends;
  layout = data.layout;
  map.setNodes(nodes);
  timed(data);
}

function update(data) {
  if (data.layout !== layout) {
    live.resync();
    return;
  }
  for (const [name, value] of Object.entries(data.totals)) {
    const points = (trends[name] ??= []);
    points.push(value);
    if (points.length > KEEP) points.shift();
  }
  timed(data);
}

// The cost of an update in main-thread script, for the benchmark and for anyone with the developer tools open.
function timed(data) {
  performance.mark("update-start");
  show(data);
  performance.measure("update", "update-start");
}

for (const link of document.querySelectorAll("#metrics [data-metric]")) {
  link.addEventListener("click", (event) => {
    if (event.ctrlKey || event.metaKey || event.shiftKey) return;
    event.preventDefault();
    metric = link.dataset.metric;
    document.querySelectorAll("#metrics [data-metric]").forEach((other) => other.toggleAttribute("aria-current", false));
    link.setAttribute("aria-current", "true");
    history.replaceState(null, "", `?metric=${metric}`);
    live.subscribe({ panel: "overview", metric });
  });
}

asTable.addEventListener("click", () => {
  table.hidden = !table.hidden;
  asTable.setAttribute("aria-pressed", String(!table.hidden));
  showTable(latest);
});

drawRamp(ramp.querySelector("canvas"));
snapshot(first);
const live = new Live({ panel: "overview", metric }, { snapshot, update }, document.getElementById("live"));
