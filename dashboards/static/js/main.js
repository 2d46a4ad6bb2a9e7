// What every page does: times in the reader's own zone, and copying a command.

import { fullTime, utc } from "./format.js";
import { say } from "./words.js";

export function localizeTimes(root = document) {
  for (const element of root.querySelectorAll("time[datetime]:not([data-local])")) {
    const date = new Date(element.dateTime);
    element.title = utc(date);
    element.textContent = fullTime(date);
    element.dataset.local = "";
  }
}

localizeTimes();

for (const button of document.querySelectorAll("[data-copy]")) {
  button.hidden = !navigator.clipboard;
  button.addEventListener("click", async () => {
    await navigator.clipboard.writeText(document.getElementById(button.dataset.copy).textContent);
    button.textContent = say("copied");
  });
}
