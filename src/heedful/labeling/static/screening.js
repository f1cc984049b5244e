// A text of the screening test, kept while somebody writes. Without this script the form works.

const SAVE_AFTER_MS = 1500; // after the last key
const SAVE_AT_LATEST_MS = 4000; // while keys keep coming
const form = document.getElementById("item");
const text = form.elements.namedItem("text");
const saved = document.getElementById("saved");
let timer = 0;
let firstChange = 0;
let lastSent = text?.defaultValue; // somebody may have typed before this script had come

async function save() {
  clearTimeout(timer);
  firstChange = 0;
  if (!text.value.trim() || text.value === lastSent) return;
  const sent = text.value;
  saved.textContent = "Saving";
  try {
    const response = await fetch(form.action, {
      method: "POST", body: new FormData(form), headers: { Accept: "application/json" },
    });
    if (!response.ok) throw new Error(String(response.status));
    const answer = await response.json();
    lastSent = sent;
    saved.textContent = `Saved ${new Date(answer.saved_at * 1000).toLocaleTimeString()}`;
  } catch {
    saved.textContent = "Not saved yet: your text is here, and is sent again.";
    timer = setTimeout(save, SAVE_AT_LATEST_MS);
  }
}

function later() {
  const now = Date.now();
  firstChange ||= now;
  clearTimeout(timer);
  timer = setTimeout(save, Math.max(0, Math.min(SAVE_AFTER_MS, firstChange + SAVE_AT_LATEST_MS - now)));
}

text?.addEventListener("input", later);
if (text?.value !== lastSent) later();
document.querySelector(".alert")?.focus();
