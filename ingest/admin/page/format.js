// Figures in words, as `wa-ingest status` writes them.

const whole = new Intl.NumberFormat("en");
const tenths = new Intl.NumberFormat("en", { maximumFractionDigits: 1 });
const compact = new Intl.NumberFormat("en", { notation: "compact", maximumFractionDigits: 1 });
const hours = new Intl.DateTimeFormat(undefined, { hour: "2-digit", minute: "2-digit", hourCycle: "h23" });
const days = new Intl.DateTimeFormat(undefined, {
  year: "numeric", month: "short", day: "numeric", hour: "2-digit", minute: "2-digit", second: "2-digit", timeZoneName: "short",
});

export const count = (n) => whole.format(n);
export const short = (n) => compact.format(n);
export const rate = (n) => `${n < 10 ? tenths.format(n) : whole.format(Math.round(n))}/s`;
export const clock = (seconds) => hours.format(seconds * 1000);
export const zone = () => hours.resolvedOptions().timeZone.replaceAll("_", " ");
export const date = (seconds) => days.format(seconds * 1000);

/** A time span in six characters: 59s, 12m30s, 3h05m, 6d23h. */
export function span(seconds) {
  const s = Math.max(0, Math.round(seconds));
  const two = (n) => String(n).padStart(2, "0");
  if (s >= 86400) return `${Math.floor(s / 86400)}d${two(Math.floor((s % 86400) / 3600))}h`;
  if (s >= 3600) return `${Math.floor(s / 3600)}h${two(Math.floor((s % 3600) / 60))}m`;
  return s >= 60 ? `${Math.floor(s / 60)}m${two(s % 60)}s` : `${s}s`;
}

/** How long a call took: 4ms, 250ms, 2.5s. */
export const took = (seconds) => (seconds < 1 ? `${tenths.format(seconds * 1000)}ms` : `${tenths.format(seconds)}s`);

export function bytes(n) {
  const units = ["B", "kB", "MB", "GB", "TB"];
  const power = n < 1 ? 0 : Math.min(units.length - 1, Math.floor(Math.log10(n) / 3));
  return `${tenths.format(n / 1000 ** power)} ${units[power]}`;
}

/** Put a text into an element, with code for what stands between backticks. */
export function prose(element, text) {
  if (element.dataset.text === text) return;
  element.dataset.text = text;
  element.replaceChildren(...text.split("`").map((part, i) => {
    if (i % 2 === 0) return part;
    return Object.assign(document.createElement("code"), { textContent: part });
  }));
}
