// Number keys for rating and ranking, and words for what they did; ranks by the ratings as a first
// order; outputs side by side. The radio buttons hold the state; which keys and which view somebody
// has chosen is kept by the browser for their next task.

const form = document.getElementById("work");
const said = document.getElementById("said");
const outputs = [...document.querySelectorAll(".output")];
const panel = document.querySelector(".keys");
let marked = 0;

panel.hidden = false;
document.querySelector(".view").hidden = false;
for (const output of outputs) {
  const button = output.querySelector(".all-no");
  if (button) {
    button.hidden = false;
    button.addEventListener("click", () => allNo(output));
  }
  output.addEventListener("focusin", () => mark(outputs.indexOf(output), false));
}

// A browser may refuse to keep anything: then every task begins as the first.
function keep(name, value) {
  try {
    localStorage.setItem(`heedful.${name}`, value);
  } catch {
    // What was chosen holds for this page alone.
  }
}

function keptChoice(name) {
  try {
    return localStorage.getItem(`heedful.${name}`);
  } catch {
    return null;
  }
}

const kept = keptChoice("keys");
for (const radio of document.querySelectorAll('input[name="keys"]')) {
  radio.checked = radio.value === (["ratings", "ranks"].includes(kept) ? kept : "off");
  radio.addEventListener("change", () => {
    keep("keys", mode());
    showMark();
  });
}
showMark();

// With keys on, the output that they mean is to be seen before one is pressed.
function showMark() {
  if (mode() !== "off") mark(marked, false);
}

function mode() {
  return document.querySelector('input[name="keys"]:checked').value;
}

function mark(place, move) {
  outputs[marked].classList.remove("marked");
  marked = Math.max(0, Math.min(outputs.length - 1, place));
  outputs[marked].classList.add("marked");
  if (move) outputs[marked].focus();
}

function choose(kind, number) {
  const output = outputs[marked];
  const radio = output.querySelector(`input[name="${kind}.${output.dataset.place}"][value="${number}"]`);
  if (!radio) return;
  radio.checked = true;
  radio.dispatchEvent(new Event("input", { bubbles: true }));
  say(output, kind, number);
}

function say(output, kind, number) {
  const letter = output.dataset.letter;
  if (kind === "ratings") {
    said.textContent = `Output ${letter}, rated ${number}`;
    return;
  }
  const tied = outputs.filter((other) => other !== output
    && other.querySelector(`input[name="ranks.${other.dataset.place}"]:checked`)?.value === String(number));
  const names = tied.map((other) => other.dataset.letter).join(", ");
  said.textContent = `Output ${letter}, rank ${number}${names ? `, tied with ${names}` : ""}`;
}

function allNo(output) {
  for (const question of output.querySelectorAll(".yes-no.in-all-no")) {
    if (!question.querySelector("input:checked")) question.querySelector('input[value="no"]').checked = true;
  }
  form.dispatchEvent(new Event("input", { bubbles: true }));
  said.textContent = `Output ${output.dataset.letter}: the other questions are answered with no, except those to answer by hand`;
}

form.addEventListener("change", (event) => {
  const output = event.target.closest(".output");
  const [kind] = event.target.name.split(".");
  if (output && kind === "ranks") say(output, kind, event.target.value);
});

document.addEventListener("keydown", (event) => {
  const typing = event.target.matches("textarea, select, input:not([type=radio], [type=checkbox])");
  if (mode() === "off" || typing || event.ctrlKey || event.metaKey || event.altKey) return;
  if (/^[1-9]$/.test(event.key)) choose(mode(), Number(event.key));
  else if (event.key === "j" || event.key === "J") mark(marked + 1, true);
  else if (event.key === "k" || event.key === "K") mark(marked - 1, true);
  else if (event.key === "r" || event.key === "R") rankByRatings();
  else return;
  event.preventDefault();
});

// A first order, to be changed by hand: the best rated output gets rank 1, equal ratings tie. What is
// not rated keeps its rank. Asked for again at once, the ranks from before come back.
let before = null;

function checked(output, kind) {
  return output.querySelector(`input[name="${kind}.${output.dataset.place}"]:checked`)?.value ?? "";
}

function setRanks(ranks) {
  outputs.forEach((output, place) => {
    for (const radio of output.querySelectorAll(`input[name="ranks.${output.dataset.place}"]`)) {
      radio.checked = radio.value === ranks[place];
    }
  });
  form.dispatchEvent(new Event("input", { bubbles: true }));
}

function rankByRatings() {
  const prefilled = form.elements.namedItem("prefilled");
  if (before) {
    const { ranks, mark: mine } = before;
    prefilled.value = mine;
    setRanks(ranks);
    before = null;
    said.textContent = "The ranks from before";
    return;
  }
  const ratings = outputs.map((output) => Number(checked(output, "ratings")));
  const order = [...new Set(ratings.filter((rating) => rating))].sort((a, b) => b - a);
  if (!order.length) {
    said.textContent = "Nothing is rated yet";
    return;
  }
  const ranks = outputs.map((output) => checked(output, "ranks"));
  const back = { ranks, mark: prefilled.value };
  prefilled.value = "on";
  setRanks(ratings.map((rating, place) => (rating ? String(order.indexOf(rating) + 1) : ranks[place])));
  before = back;
  said.textContent = "Ranked by your ratings; once more brings the ranks from before back";
}

document.getElementById("by-ratings").addEventListener("click", rankByRatings);
form.addEventListener("input", () => { before = null; });

// Side by side, for long texts on a wide screen: all at one height, and scrolled to the same share.
const together = document.querySelector('input[name="together"]');
const texts = outputs.map((output) => output.querySelector(".answer"));
const placed = new Map(); // where a text was put by another one, so that it does not answer

together.checked = keptChoice("together") === "yes"; // whatever the browser has filled in by itself
placeTexts();
together.addEventListener("change", () => {
  keep("together", together.checked ? "yes" : "no");
  placeTexts();
});

function placeTexts() {
  document.querySelector(".outputs").classList.toggle("together", together.checked);
  texts.forEach((text, place) => {
    if (together.checked) {
      text.tabIndex = 0; // so that keys can scroll it
      text.setAttribute("role", "region");
      text.setAttribute("aria-labelledby", `output-${place}`);
    } else {
      for (const name of ["tabindex", "role", "aria-labelledby"]) text.removeAttribute(name);
    }
  });
}
for (const text of texts) {
  text.addEventListener("scroll", () => {
    if (!together.checked || placed.get(text) === text.scrollTop) return;
    const share = text.scrollTop / Math.max(1, text.scrollHeight - text.clientHeight);
    for (const other of texts) {
      if (other === text) continue;
      other.scrollTop = share * (other.scrollHeight - other.clientHeight);
      placed.set(other, other.scrollTop);
    }
    placed.delete(text);
  }, { passive: true });
}
