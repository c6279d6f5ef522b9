// Plots a lane's last hour: how many wait, the age of the oldest, and the rates in and out.

import { clock, count, rate, short, span } from "./format.js";

const HOUR = 3600;
const LEAST = 300; // seconds that a plot shows at least
const STEP = 10; // seconds between points; only the newest point changes every second
const GAP = 45; // a longer time without points, in seconds, is shown as a gap

const SPANS = [1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 14400, 21600, 43200, 86400, 172800, 604800];

const KINDS = [
  { name: "Waiting", least: 10, tick: short, say: count, lines: [{ of: "waiting", color: "--waiting", fill: true }] },
  { name: "Age of the oldest", least: 10, tick: span, incrs: SPANS, say: span, lines: [{ of: "oldest_seconds", color: "--oldest", fill: true }] },
  {
    name: "In and out", least: 1, tick: short, say: rate,
    lines: [{ of: "rate_in", word: "in", color: "--in", dash: [4, 3] }, { of: "rate_out", word: "out", color: "--out" }],
  },
];

const color = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

/** The samples of the last hour, each with all lanes. */
const samples = [];

export function begin(all) {
  samples.length = 0;
  all.forEach(add);
}

export function add(sample) {
  const [before, last] = samples.slice(-2);
  if (last && sample.time <= last.time) return;
  if (last && last.time - before.time < STEP) samples.pop();
  samples.push(sample);
  while (samples[0].time < sample.time - HOUR) samples.shift();
}

/** One point for each sample, and a gap where there were none. */
function data(lane, lines) {
  const rows = [[], ...lines.map(() => [])];
  samples.forEach((sample, i) => {
    if (i && sample.time - samples[i - 1].time > GAP) {
      rows.forEach((row, n) => row.push(n ? null : samples[i - 1].time + 1));
    }
    rows[0].push(sample.time);
    lines.forEach((line, n) => rows[n + 1].push(sample.lanes[lane]?.[line.of] ?? null));
  });
  return rows;
}

function range(plot) {
  const end = samples.at(-1)?.time ?? Date.now() / 1000;
  return [Math.max(end - HOUR, Math.min(samples[0]?.time ?? end, end - LEAST)), end];
}

function options(kind, width) {
  const axis = {
    stroke: color("--soft"), font: "11px system-ui, sans-serif",
    grid: { stroke: color("--line"), width: 1 }, ticks: { show: false },
  };
  return {
    width, height: 104, padding: [8, 20, 0, 0],
    legend: { show: false },
    cursor: { sync: { key: "hour" }, drag: { setScale: false }, y: false, points: { size: 7 } },
    select: { show: false },
    scales: { x: { range }, y: { range: (plot, low, high) => [0, Math.max(kind.least, (high ?? 0) * 1.1)] } },
    axes: [
      { ...axis, size: 22, space: 54, grid: { show: false }, values: (plot, ticks) => ticks.map(clock) },
      { ...axis, size: 46, space: 28, incrs: kind.incrs, values: (plot, ticks) => ticks.map(kind.tick) },
    ],
    series: [{}, ...kind.lines.map((line) => ({
      stroke: color(line.color), width: 1.5, dash: line.dash, points: { show: false },
      fill: line.fill ? color(`${line.color}-fill`) : undefined,
    }))],
  };
}

/** Append a lane's plots to `card`. Call the function that is returned when there are new samples. */
export function plots(lane, card, template) {
  const all = KINDS.map((kind) => {
    const figure = template.content.firstElementChild.cloneNode(true);
    const place = figure.querySelector(".plot");
    const caption = figure.querySelector("figcaption");
    card.append(figure);
    let plot;
    let at = null;
    const make = () => {
      plot?.destroy();
      const hooks = { setCursor: [(it) => { at = it.cursor.idx ?? null; label(it.data); }] };
      plot = new uPlot({ ...options(kind, place.clientWidth), hooks }, data(lane, kind.lines), place);
    };
    const label = (rows) => {
      const i = at ?? rows[0].length - 1;
      const labels = kind.lines.map((line, n) => {
        const value = rows[n + 1][i];
        const words = document.createElement("span");
        words.textContent = `${line.word ?? ""} ${value == null ? "–" : kind.say(value)}`.trim();
        if (line.word) words.dataset.line = line.of;
        return words;
      });
      const values = document.createElement("span");
      values.append(at === null ? "" : `${clock(rows[0][i])}: `, ...labels);
      caption.replaceChildren(kind.name, values);
    };
    const describe = (rows) => {
      const parts = kind.lines.map((line, n) => {
        const known = rows[n + 1].filter((value) => value !== null);
        if (!known.length) return "no data";
        return `${line.word ?? ""} now ${kind.say(known.at(-1))}, at most ${kind.say(Math.max(...known))}`.trim();
      });
      place.setAttribute("aria-label", `${kind.name} in ${lane}, last hour: ${parts.join("; ")}`);
    };
    new ResizeObserver(() => {
      if (plot && place.clientWidth && place.clientWidth !== plot.width) {
        plot.setSize({ width: place.clientWidth, height: plot.height });
      }
    }).observe(place);
    make();
    return {
      make,
      draw() {
        const rows = data(lane, kind.lines);
        plot.setData(rows);
        label(rows);
        describe(rows);
      },
    };
  });
  for (const query of ["(prefers-color-scheme: dark)", `(resolution: ${devicePixelRatio}dppx)`]) {
    matchMedia(query).addEventListener("change", () => all.forEach((one) => one.make()));
  }
  return () => all.forEach((one) => one.draw());
}
