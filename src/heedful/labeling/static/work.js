// The page of a task: saves the draft while somebody types, keeps the task theirs, counts the time
// of work. Without this script the form works as it stands.

const SAVE_AFTER_MS = 1500; // after the last key
const SAVE_AT_LATEST_MS = 4000; // while keys keep coming: at most this much typing is at risk
const RETRY_MS = 3000;
const BEAT_MS = 60000;
const IDLE_MS = 5 * 60000;
const form = document.getElementById("work");
const saved = document.getElementById("saved");
const lease = document.getElementById("lease");
const field = (name) => form.elements.namedItem(name);
const PAGE_FIELDS = new Set(["token", "key", "revision", "active_s", "checks", "reason"]);

let timer = 0;
let firstChange = 0;
let sending = null;
let lastSent = JSON.stringify(served());
let lastInput = Date.now();
let activeMs = 1000 * Number(field("active_s").value); // from before, where the form came back
let lastTick = Date.now();
let stopped = false;
let unsent = ""; // says, until all is saved, that a form was not sent

for (const button of document.querySelectorAll(".without-script")) button.hidden = true;
for (const time of document.querySelectorAll("time[data-clock]")) {
  time.textContent = clock(new Date(time.dateTime));
}
document.querySelector(".alert")?.focus();
let kept = saved.textContent; // what to say while everything is saved

function clock(date) {
  return date.toLocaleTimeString([], { hour: "2-digit", minute: "2-digit", second: "2-digit" });
}

function fields(of = form) {
  const found = {};
  for (const [name, value] of new FormData(of)) {
    if (typeof value === "string" && value && !PAGE_FIELDS.has(name)) found[name] = value;
  }
  return found;
}

// What the server put into the form: somebody may have typed before this script had come. (The form
// says autocomplete="off", so that no browser fills it with what stood in it at an earlier time.)
function served() {
  const untouched = form.cloneNode(true);
  untouched.reset();
  return fields(untouched);
}

async function send(path, method, body) {
  const headers = {
    "Content-Type": "application/json",
    Accept: "application/json",
    "X-Form-Token": field("token").value,
  };
  const response = await fetch(`/work/${form.dataset.work}/${path}`, {
    method, headers, body: JSON.stringify(body), redirect: "error",
  });
  return [response, await response.json()];
}

function later() {
  if (stopped) return;
  const now = Date.now();
  firstChange ||= now;
  saved.textContent = `${unsent}Not saved yet`;
  clearTimeout(timer);
  timer = setTimeout(save, Math.max(0, Math.min(SAVE_AFTER_MS, firstChange + SAVE_AT_LATEST_MS - now)));
}

function save() {
  clearTimeout(timer);
  sending = (sending ?? Promise.resolve()).then(saveNow);
  return sending;
}

async function saveNow() {
  const content = fields();
  const text = JSON.stringify(content);
  firstChange = 0;
  if (stopped) return;
  if (text === lastSent) {
    unsent = "";
    saved.textContent = kept;
    return;
  }
  try {
    const [response, answer] = await send("draft", "PUT", {
      fields: content, revision: Number(field("revision").value), active_s: seconds(),
    });
    if (response.ok) {
      field("revision").value = answer.revision;
      lastSent = text;
      unsent = "";
      kept = `Saved ${clock(new Date(answer.saved_at * 1000))}`;
      if (JSON.stringify(fields()) === text) saved.textContent = kept;
      return;
    }
    saved.textContent = `${unsent}Not saved: ${answer.error}`;
    if (response.status === 409) {
      // Nothing is overwritten: sending this form shows both versions.
      stopped = true;
      return;
    }
  } catch {
    saved.textContent = `${unsent}Not saved: no connection. Your text is here; it is sent when the network is back.`;
  }
  timer = setTimeout(save, RETRY_MS);
}

async function beat() {
  if (document.hidden || Date.now() - lastInput > IDLE_MS) return;
  try {
    const [response, answer] = await send("heartbeat", "POST", { active_s: seconds() });
    if (!response.ok) return;
    lease.textContent = answer.state === "leased"
      ? `Yours until ${clock(new Date(answer.lease_until * 1000))}; the time grows while you work.`
      : "Your time for this task was over: you can still submit it.";
  } catch {
    // The next beat tries again.
  }
}

function tick() {
  const now = Date.now();
  if (!document.hidden && now - lastInput < 60000) activeMs += Math.min(now - lastTick, 5000);
  lastTick = now;
  field("active_s").value = seconds();
}

function seconds() {
  return Math.round(activeMs / 1000);
}

form.addEventListener("input", () => { lastInput = Date.now(); later(); });
for (const kind of ["pointerdown", "keydown", "scroll"]) {
  document.addEventListener(kind, () => { lastInput = Date.now(); }, { passive: true });
}
document.addEventListener("visibilitychange", () => { if (document.hidden) save(); });
window.addEventListener("online", save);
document.addEventListener("keydown", (event) => {
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) {
    event.preventDefault();
    form.requestSubmit(form.querySelector("button.main"));
  }
});

// What is under way is saved first, so that the form and its draft are of one mind; and without a
// connection nobody leaves the page. Both waits end in a later turn of the browser: a form that is
// sent again from inside its own submit event is not sent at all.
let ready = false;
form.addEventListener("submit", async (event) => {
  if (ready) return;
  event.preventDefault();
  const button = event.submitter;
  tick();
  await save();
  if (!stopped && JSON.stringify(fields()) !== lastSent) {
    // What the server could not keep it would not take either: nobody leaves the page with it.
    if (!unsent) saved.textContent = `Not sent. ${saved.textContent}`;
    unsent = "Not sent. ";
    return;
  }
  try {
    await fetch("/health", { cache: "no-store" });
  } catch {
    saved.textContent = "Not sent: no connection. What you wrote is saved; try again.";
    return;
  }
  ready = true;
  form.requestSubmit(button);
  stopped = true;
  for (const other of form.querySelectorAll(".actions button")) other.disabled = true;
});
window.addEventListener("pageshow", (event) => { if (event.persisted) location.reload(); });
if (JSON.stringify(fields()) !== lastSent) later();

setInterval(tick, 1000);
setInterval(beat, BEAT_MS);
