// The sequential scale of the map (dark blue to yellow, lightness rises all the way, readable by colour-blind eyes) and
// the design tokens as canvas colours.

const STOPS = [[24, 37, 66], [29, 66, 112], [28, 100, 133], [38, 134, 139], [86, 166, 119], [158, 193, 88], [225, 212, 78], [255, 236, 121]];
const SHADES = 64;

function mix(share) {
  const place = Math.max(0, Math.min(0.9999, share)) * (STOPS.length - 1);
  const low = Math.floor(place);
  const part = place - low;
  return `rgb(${STOPS[low].map((from, i) => Math.round(from + (STOPS[low + 1][i] - from) * part)).join(" ")})`;
}

const ramp = Array.from({ length: SHADES }, (_, i) => mix(i / (SHADES - 1)));

export function shade(value, scale) {
  const share = (value - scale.minimum) / (scale.maximum - scale.minimum || 1);
  return ramp[Math.max(0, Math.min(SHADES - 1, Math.round(share * (SHADES - 1))))];
}

// True where a dark sign is readable on the shade.
export function isLight(value, scale) {
  return (value - scale.minimum) / (scale.maximum - scale.minimum || 1) > 0.55;
}

export function token(name) {
  // A probe resolves light-dark(); reading the property alone would give its text.
  const probe = document.createElement("span");
  probe.style.color = `var(${name})`;
  document.body.append(probe);
  const colour = getComputedStyle(probe).color;
  probe.remove();
  return colour;
}

export function tokens() {
  const names = ["bg", "panel", "raise", "line", "ink", "ink-2", "ink-3", "accent", "ok", "warn", "bad", "info"];
  const found = Object.fromEntries(names.map((name) => [name, token(`--${name}`)]));
  found.series = Array.from({ length: 8 }, (_, i) => token(`--series-${i + 1}`));
  return found;
}

export function fit(canvas, width, height) {
  const ratio = devicePixelRatio || 1;
  canvas.width = Math.round(width * ratio);
  canvas.height = Math.round(height * ratio);
  canvas.style.height = `${height}px`;
  const context = canvas.getContext("2d");
  context.setTransform(ratio, 0, 0, ratio, 0, 0);
  return context;
}

export function drawRamp(canvas) {
  const context = fit(canvas, 150, 8);
  for (let x = 0; x < 150; x++) {
    context.fillStyle = mix(x / 150);
    context.fillRect(x, 0, 1.5, 8);
  }
}
