// A line as large as a word.

import { fit } from "./colours.js";

export function spark(canvas, points, colour) {
  const width = canvas.clientWidth || 120;
  const height = 20;
  const context = fit(canvas, width, height);
  const known = points.filter((point) => point !== null);
  if (known.length < 2) return;
  const low = Math.min(...known);
  const room = Math.max(...known) - low || 1;
  context.strokeStyle = colour;
  context.lineWidth = 1.25;
  context.lineJoin = "round";
  context.beginPath();
  let pen = false;
  points.forEach((point, i) => {
    if (point === null) {
      pen = false;
      return;
    }
    const x = (i / (points.length - 1)) * (width - 2) + 1;
    const y = height - 2 - ((point - low) / room) * (height - 4);
    context[pen ? "lineTo" : "moveTo"](x, y);
    pen = true;
  });
  context.stroke();
}
