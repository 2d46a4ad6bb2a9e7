// Numbers and times as a person reads them: the same rules as dashboards/units.py.

import { say } from "./words.js";

export const UNKNOWN = "–";
const BINARY = ["B", "KiB", "MiB", "GiB", "TiB", "PiB"];
const DECIMAL = ["", "k", "M", "G", "T", "P"];
const grouped = [0, 1, 2].map((places) => new Intl.NumberFormat("en", { minimumFractionDigits: places, maximumFractionDigits: places }));

export function digits(number) {
  const size = Math.abs(number);
  return grouped[size >= 100 || Number.isInteger(number) ? 0 : size >= 10 ? 1 : 2].format(number);
}

function scaled(number, base, names) {
  let step = 0;
  while (Math.abs(number) >= base && step < names.length - 1) {
    number /= base;
    step += 1;
  }
  return [number, names[step]];
}

export function figure(number, unit) {
  if (number === null || number === undefined || Number.isNaN(number)) return [UNKNOWN, ""];
  if (unit === "B" || unit === "B/s") {
    const [value, name] = scaled(number, 1024, BINARY);
    return [digits(value), name + unit.slice(1)];
  }
  if (unit === "W" || unit === "Wh") {
    const [value, name] = scaled(number, 1000, DECIMAL);
    return [digits(value), name + unit];
  }
  if (unit === "ratio") return [(100 * number).toFixed(1), "%"];
  if (unit === "%") return [number < 10 && !Number.isInteger(number) ? number.toFixed(1) : number.toFixed(0), "%"];
  if (unit === "s") return [span(number), ""];
  return [digits(number), unit === "bits" || unit === "P" ? "" : unit];
}

export function text(number, unit) {
  return figure(number, unit).join(" ").trim();
}

export function span(seconds) {
  const total = Math.max(0, Math.round(seconds));
  if (total < 60) return `${total} s`;
  const minutes = Math.floor(total / 60);
  const hours = Math.floor(total / 3600);
  const days = Math.floor(total / 86400);
  if (minutes < 60) return `${minutes} min`;
  if (hours < 24) return `${hours} h ${String(minutes % 60).padStart(2, "0")} min`;
  return `${days} d ${hours % 24} h`;
}

const clock = new Intl.DateTimeFormat(document.documentElement.lang, { hour: "2-digit", minute: "2-digit", second: "2-digit", hourCycle: "h23" });
const full = new Intl.DateTimeFormat(document.documentElement.lang, { year: "numeric", month: "short", day: "2-digit", hour: "2-digit", minute: "2-digit", second: "2-digit", hourCycle: "h23" });

export function clockTime(date) {
  return clock.format(date);
}

export function fullTime(date) {
  return full.format(date);
}

export function utc(date) {
  return `${date.toISOString().slice(0, 19).replace("T", " ")} UTC`;
}

export function ago(atUs, nowUs) {
  const seconds = (nowUs - atUs) / 1e6;
  return seconds < 2 ? say("just_now") : say("ago", { span: span(seconds) });
}

// A figure with its unit set smaller, as the `quantity` template filter writes it.
export function quantity(number, unit) {
  const [value, name] = figure(number, unit);
  const element = document.createElement("span");
  element.className = "q";
  element.textContent = value;
  if (name) {
    const small = document.createElement("small");
    small.textContent = ` ${name}`;
    element.append(small);
  }
  return element;
}
