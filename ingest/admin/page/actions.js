// What an operator does here. The token is a variable of this module: it is gone when the page is left or loaded again,
// and no other page, tab or later user of the browser finds it.

import { count, prose } from "./format.js";

const by = (id) => document.getElementById(id);
const tokens = { value: null };

/** An answer that says why something was not done. */
class Refusal extends Error {}

export const unlocked = () => tokens.value !== null;

/** Request an action. `progress` gets each line of the answer; the last one is returned. */
async function act(name, content, token = tokens.value, progress = () => {}) {
  const answer = await fetch(`actions/${name}`, {
    method: "POST",
    headers: { "Content-Type": "application/json", Authorization: `Bearer ${token}` },
    body: JSON.stringify(content),
    credentials: "omit",
  }).catch(() => { throw new Refusal("the receiver does not answer"); });
  if (!answer.ok) {
    const problem = await answer.json().catch(() => ({}));
    if (answer.status === 401 && token === tokens.value) lock();
    throw new Refusal(problem.error ?? `the receiver answers ${answer.status}`);
  }
  let last = {};
  let rest = "";
  const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
  for (let part = await reader.read(); !part.done; part = await reader.read()) {
    const lines = (rest + part.value).split("\n");
    rest = lines.pop();
    for (const line of lines) progress(last = JSON.parse(line));
  }
  return last;
}

function say(text) {
  by("told").textContent = text;
}

let changed = () => {};

/** Connect the buttons of the header and the dialogs. `whenChanged` is called when buttons appear or disappear. */
export function install(whenChanged) {
  changed = whenChanged;
  for (const button of document.querySelectorAll("dialog [data-close]")) {
    button.addEventListener("click", () => button.closest("dialog").close());
  }
  by("unlock").addEventListener("click", () => {
    by("token-form").reset();
    by("token-problem").textContent = "";
    by("token-dialog").showModal();
    by("token").focus();
  });
  by("lock").addEventListener("click", () => { lock(); by("unlock").focus(); });
  by("token-form").addEventListener("submit", async (event) => {
    event.preventDefault();
    const token = by("token").value.trim();
    try {
      await act("check", {}, token);
    } catch (refusal) {
      by("token-problem").textContent = `Not unlocked: ${refusal.message}.`;
      by("token").select();
      return;
    }
    tokens.value = token;
    by("token-form").reset();
    by("token-dialog").close();
    changed();
    by("lock").focus();
  });
}

function lock() {
  tokens.value = null;
  changed();
}

/** Pause or resume a lane. */
export async function steer(lane, what) {
  try {
    await act(what, { lane });
    say(what === "pause" ? `${lane} is paused: none of it is handled until you resume it.` : `${lane} is resumed.`);
  } catch (refusal) {
    say(`${lane} is not ${what}d: ${refusal.message}.`);
  }
}

const WAYS = {
  retry: {
    ask: (n) => `Retry ${n}?`, yes: (n) => `Retry ${n}`, done: "will be handled again",
    text: "They go to the end of their queues and start again at the first attempt. Retry once the cause is fixed.",
  },
  drop: {
    ask: (n) => `Drop ${n}?`, yes: (n) => `Drop ${n}`, done: "dropped",
    text: "They are deleted for good. To keep a copy, run `wa-ingest dead export` first.",
  },
};

/** A group of dead letters in words. */
export const named = ({ lane, reason, kind, handler }) => [lane, reason, kind, handler].filter(Boolean).join(", ");

/** Retry or drop the dead letters of a group as it is shown now; later ones are left alone. */
export function change(what, group) {
  const way = WAYS[what];
  const letters = group.count === 1 ? "1 dead letter" : `${count(group.count)} dead letters`;
  const dialog = by("confirm-dialog");
  const yes = by("confirm-yes");
  by("confirm-title").textContent = way.ask(letters);
  prose(by("confirm-text"), `${named(group)}. ${way.text}`);
  by("confirm-progress").textContent = "";
  yes.textContent = way.yes(count(group.count));
  yes.classList.toggle("danger", what === "drop");
  yes.disabled = false;
  by("confirm-form").onsubmit = async function submit(event) {
    event.preventDefault();
    yes.disabled = true;
    const { lane, reason, kind, handler, first, last } = group;
    try {
      const end = await act(what, { lane, reason, kind, handler, first, last }, tokens.value, ({ done }) => {
        by("confirm-progress").textContent = `${count(done)} of ${count(group.count)}`;
      });
      const problem = end.error ?? (end.ended ? "" : "the connection broke, see how many are left");
      say(`${count(end.done ?? 0)} of ${letters} ${way.done}${problem && `, then: ${problem}`}.`);
    } catch (refusal) {
      say(`Not done: ${refusal.message}.`);
    }
    if (by("confirm-form").onsubmit !== submit) return; // the dialog now shows something else
    dialog.close();
    by("told").focus(); // the row, and the button that had the focus, may be gone
  };
  dialog.showModal();
}
