// The words this page may say, translated by the server.

const words = JSON.parse(document.getElementById("words").textContent);

export function say(key, values = {}) {
  return (words[key] ?? key).replace(/\{(\w+)\}/g, (_, name) => values[name] ?? "");
}
