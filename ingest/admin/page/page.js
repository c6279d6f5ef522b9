// Shows what comes from /events (ingest/admin/event_stream.py).

import { change, install, named, steer, unlocked } from "./actions.js";
import * as plots from "./plots.js";
import { bytes, count, date, prose, rate, span, took, zone } from "./format.js";

const STALE = 5; // seconds without news

const by = (id) => document.getElementById(id);
const template = (id) => by(id).content.firstElementChild.cloneNode(true);

function set(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

/** One child of `parent` for each item, in order. A key keeps its child, so that its button keeps the focus. */
function list(parent, items, key, make, fill) {
  const there = new Map([...parent.children].map((child) => [child.dataset.key, child]));
  items.forEach((item, i) => {
    const name = key(item);
    const child = there.get(name) ?? make(item);
    there.delete(name);
    child.dataset.key = name;
    fill(child, item);
    if (parent.children[i] !== child) parent.insertBefore(child, parent.children[i] ?? null);
  });
  for (const child of there.values()) child.remove();
}

// --- the health

/** What to do, and where more of it stands (docs/troubleshooting.md). */
function advise(element, text, topic) {
  if (element.dataset.topic !== topic) {
    delete element.dataset.text;
    element.dataset.topic = topic;
  }
  if (element.dataset.text === text) return;
  prose(element, text);
  if (!topic) return;
  const link = Object.assign(document.createElement("a"), { href: `help/${topic}`, target: "_blank", textContent: "more" });
  link.setAttribute("aria-label", `more: ${topic.replaceAll("-", " ")}`);
  element.append(" ", link);
}

const ICONS = { critical: "#d1242f", warning: "#d4a017", info: "#2da44e", unknown: "#8c959f" };
let announced = "";

function health(findings) {
  const [first, ...others] = findings;
  by("health").dataset.level = first.level;
  prose(by("headline"), first.text);
  advise(by("remedy"), first.remedy, first.topic);
  list(by("findings"), others, (finding) => finding.about, () => document.createElement("li"), (item, finding) => {
    item.dataset.level = finding.level;
    advise(item, finding.remedy ? `${finding.text}. ${finding.remedy}.` : finding.text, finding.topic);
  });
  // Screen readers announce it only when there are other findings, not other figures each second.
  const about = findings.filter(({ level }, i) => i === 0 || level !== "info").map((finding) => finding.about).join();
  if (about !== announced) {
    announced = about;
    set(by("announce"), findings.slice(0, 3).map(({ text }) => text.replaceAll("`", "")).join(". "));
  }
  document.title = `${first.text.replaceAll("`", "")} – wa-ingest`;
  icon(first.level);
}

function icon(level) {
  const circle = `<circle cx="8" cy="8" r="7" fill="${ICONS[level]}"/>`;
  const svg = `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 16 16">${circle}</svg>`;
  const href = `data:image/svg+xml,${encodeURIComponent(svg)}`;
  if (by("icon").href !== href) by("icon").href = href;
}

// --- lanes

const cards = new Map();

function card(name) {
  const element = template("lane");
  const title = element.querySelector("h3");
  title.textContent = name;
  title.id = `lane-${name}`;
  element.setAttribute("aria-labelledby", title.id);
  by("lanes").append(element);
  const button = element.querySelector(".act");
  button.addEventListener("click", () => steer(name, button.dataset.does));
  const drawn = element.querySelector(".plots");
  drawn.firstElementChild.setAttribute("aria-label", `Last hour of ${name}`);
  drawn.open = !matchMedia("(max-width: 34rem)").matches; // on a phone, nine plots would stand before the dead letters
  const made = { element, button, draw: plots.plots(name, drawn, by("plot")) };
  cards.set(name, made);
  return made;
}

const LANE = {
  oldest_seconds: (lane) => (lane.waiting || lane.oldest_seconds ? span(lane.oldest_seconds) : "–"),
  seconds_to_empty: (lane) => {
    if (lane.seconds_to_empty === 0 || !(lane.waiting || lane.turns)) return "–";
    if (lane.paused_seconds !== null) return "paused";
    if (lane.seconds_to_empty !== null) return span(lane.seconds_to_empty);
    if (lane.without_workers) return "no worker";
    if (lane.rate_in > lane.rate_out) return "growing";
    return lane.put_off ? "not known" : "steady";
  },
  rate_in: (lane) => rate(lane.rate_in),
  rate_out: (lane) => rate(lane.rate_out),
  working: (lane) => count(lane.working),
  retrying: (lane) => count(lane.retrying),
  behind: (lane) => count(lane.behind),
};

function figures(element, words, of) {
  for (const place of element.querySelectorAll("[data-of]")) set(place, words[place.dataset.of](of));
}

function lane(name, now) {
  const { element, button, draw } = cards.get(name) ?? card(name);
  set(element.querySelector(".big"), count(now.waiting));
  figures(element, LANE, now);
  element.querySelector('[data-of="behind"]').parentElement.hidden = !now.behind; // only strict order knows it
  const paused = now.paused_seconds !== null;
  const state = [paused && `paused for ${span(now.paused_seconds)}`, now.limit !== null && `at most ${rate(now.limit)}`];
  set(element.querySelector(".state"), state.filter(Boolean).join(", "));
  element.classList.toggle("paused", paused);
  button.hidden = !unlocked();
  button.dataset.does = paused ? "resume" : "pause";
  set(button, paused ? "Resume" : "Pause");
  button.setAttribute("aria-label", `${button.textContent} ${name}`);
  draw();
}

// --- dead letters, workers, spool

function cells(names) {
  return () => {
    const row = Object.assign(document.createElement("tr"), { role: "row" });
    row.append(...names.map((name, i) => {
      const cell = document.createElement(i ? "td" : "th");
      if (!i) cell.scope = "row";
      cell.role = i ? "cell" : "rowheader"; // on a phone page.css makes them blocks, which would lose the role
      cell.className = name;
      return cell;
    }));
    return row;
  };
}

function deadRow() {
  const row = cells(["lane", "reason", "kind", "handler", "number", "newest", "acts"])();
  for (const what of ["retry", "drop"]) {
    const button = Object.assign(document.createElement("button"), { type: "button", className: what });
    button.textContent = what === "retry" ? "Retry" : "Drop";
    button.addEventListener("click", () => change(what, row.group));
    row.lastElementChild.append(button);
  }
  return row;
}

function dead(now, time) {
  const sum = Object.values(now.lanes).reduce((all, { dead }) => all + dead, 0);
  const known = now.dead ?? { groups: [], uncounted: 0, refused: false };
  set(by("dead-sum"), now.dead ? count(sum) : "");
  let note = "";
  if (!now.dead) note = "not known while Redis cannot be read";
  else if (known.refused) note = "This receiver's Redis user may not read them, on purpose (deploy/redis/users.acl); the README beside that file says how to allow it.";
  else if (!sum) note = "None.";
  else if (known.uncounted) note = `The newest are counted here; ${count(known.uncounted)} older ones are not: \`wa-ingest dead list\` shows them.`;
  prose(by("dead-note"), note);
  by("dead-table").hidden = !known.groups.length;
  by("dead-table").classList.toggle("acting", unlocked());
  list(by("dead"), known.groups, (group) => [group.lane, group.reason, group.kind, group.handler].join("|"), deadRow, (row, group) => {
    row.group = group;
    const [lane, reason, kind, handler, number, newest, acts] = row.children;
    set(lane, group.lane);
    set(reason, group.reason);
    set(kind, group.kind);
    set(handler, group.handler);
    set(number, count(group.count));
    set(newest, `${span(time - group.newest_ms / 1000)} ago`);
    newest.title = date(group.newest_ms / 1000);
    for (const button of acts.children) {
      button.setAttribute("aria-label", `${button.textContent} ${count(group.count)} of ${named(group)}`);
    }
  });
}

function workers(now) {
  const busy = now.workers.filter((worker) => worker.queue !== null).length;
  set(by("workers-sum"), now.alive === null ? "" : `${count(now.alive)} alive`);
  let note = `${count(busy)} at work`;
  if (now.alive === null) note = "not known while Redis cannot be read";
  else if (!now.workers.length) note = "None.";
  else if (now.alive > now.workers.length) note += `; ${count(now.workers.length)} are shown`;
  set(by("workers-note"), note);
  by("workers-scroll").hidden = !now.workers.length;
  list(by("workers"), now.workers, (worker) => worker.name, cells(["name", "holds", "number", "number"]), (row, worker) => {
    const [name, holds, since, seen] = row.children;
    set(name, worker.name.slice(0, 8));
    name.title = worker.name;
    set(holds, worker.queue ?? "waits for work");
    holds.title = worker.handler ?? "";
    holds.classList.toggle("soft", worker.queue === null);
    set(since, worker.seconds === null ? "" : span(worker.seconds));
    set(seen, worker.alive ? `${span(worker.seen_seconds)} ago` : "silent");
    row.classList.toggle("silent", !worker.alive);
  });
}

function handlers(now) {
  const known = now.handlers ?? [];
  let note = "in the last minute, over all workers";
  if (!now.handlers) note = "not known while Redis cannot be read";
  else if (!known.length) note = "None was called in the last minute.";
  set(by("handlers-note"), note);
  by("handlers-scroll").hidden = !known.length;
  list(by("handlers"), known, (one) => one.name, cells(["name", "number", "number", "number", "number", "number", "number"]), (row, one) => {
    const [name, events, p99, failed, owed, oldest, held] = row.children;
    set(name, one.name);
    set(events, rate(one.rate));
    const longer = one.rate ? "> 30s" : "–";
    set(p99, one.p99_seconds === null ? longer : `≤ ${took(one.p99_seconds)}`);
    set(failed, count(one.failures));
    failed.title = one.error ?? "";
    const waits = one.retrying + one.turns + one.ready + one.due;
    set(owed, waits ? count(waits) : "–");
    set(oldest, waits ? span(one.oldest_seconds) : "–");
    const since = one.held_since === null ? "" : ` for ${span(now.time - Date.parse(one.held_since) / 1000)}`;
    set(held, one.held === null ? "" : `${one.held}${since}`);
    row.classList.toggle("silent", one.held !== null);
  });
}

const SPOOL = {
  notifications: (spool) => count(spool.notifications),
  bytes: (spool) => bytes(spool.bytes),
  oldest_seconds: (spool) => (spool.notifications ? span(spool.oldest_seconds) : "–"),
  corrupt: (spool) => count(spool.corrupt),
};

function spool(now) {
  let note = `\`${now.folder}\`, for the time when Redis is away`;
  if (now.problem) note = `\`${now.folder}\` cannot be read: ${now.problem}`;
  if (now.folder === null) note = "None: `WA_SPOOL_DIR` is not set, so senders get 503 while Redis is away.";
  prose(by("spool-note"), note);
  by("spool").hidden = now.figures === null;
  if (now.figures !== null) figures(by("spool"), SPOOL, now.figures);
}

// --- all of it

let latest = null;
let heard = null; // when the last event came, by performance.now()

function show(now) {
  latest = now;
  set(by("receiver"), now.receiver);
  health(now.findings);
  for (const [name, figures] of Object.entries(now.lanes)) lane(name, figures);
  by("lanes").classList.toggle("old", now.alive === null);
  set(by("lanes-note"), now.alive !== null ? `Plots show the last hour, in the time of ${zone()}` : cards.size ? "last known figures" : "not known while Redis cannot be read");
  list(by("totals"), now.totals, (line) => String(now.totals.indexOf(line)), () => document.createElement("li"), set);
  dead(now, now.time);
  workers(now);
  handlers(now);
  spool(now.spool);
  by("read-only").hidden = now.actions;
  by("unlock").hidden = !now.actions || unlocked();
  by("lock").hidden = !now.actions || !unlocked();
}

function freshness() {
  const quiet = heard === null ? null : (performance.now() - heard) / 1000;
  const stale = quiet !== null && quiet > STALE;
  document.body.classList.toggle("stale", stale);
  document.body.classList.toggle("live", quiet !== null && !stale);
  if (quiet !== null) set(by("freshness-text"), stale ? `no news for ${span(quiet)}` : "live");
  if (!stale) return;
  health([{
    level: "critical", about: "stale", topic: "the-page-shows-old-figures", text: `No news from this receiver for ${span(quiet)}: the figures below are old`,
    remedy: "Check that it runs, that this browser can reach it, and that no more than 20 people watch. The page tries again by itself.",
  }]);
}

const POINT = ["waiting", "oldest_seconds", "rate_in", "rate_out", "dead"];

function watch() {
  const events = new EventSource("events");
  events.addEventListener("history", ({ data }) => {
    plots.begin(JSON.parse(data).map(([time, , lanes]) => ({
      time,
      lanes: Object.fromEntries(Object.entries(lanes).map(([name, point]) => [
        name, Object.fromEntries(POINT.map((of, i) => [of, point[i]])),
      ])),
    })));
  });
  events.addEventListener("snapshot", ({ data }) => {
    const now = JSON.parse(data);
    heard = performance.now();
    if (now.alive !== null) plots.add(now);
    show(now);
    freshness();
  });
  events.addEventListener("error", () => {
    heard ??= performance.now(); // it counts as silent from now on
    if (events.readyState !== EventSource.CLOSED) return; // it connects again by itself
    setTimeout(watch, 5000); // refused: too many viewers
  });
}

/** The figures that the page brought along, so that nobody waits for the stream to begin. */
function begin() {
  const first = by("first").textContent;
  if (!first) return;
  heard = performance.now();
  show(JSON.parse(first));
}

install(() => { if (latest) show(latest); });
setInterval(freshness, 1000);
icon("unknown");
begin();
watch();
