// Ranking by dragging: every output is a card that stands on the shelf of its rank, ties side by
// side. The radio buttons hold the state, so a card only ever sets one of them, and follows them.

const DRAG_AFTER_PX = 5; // less is a click
const EDGE_PX = 60; // of the window, where dragging scrolls the page
const SCROLL_PX = 12; // per frame
const form = document.getElementById("work");
const said = document.getElementById("said");
const section = document.querySelector(".shelves");
const shelves = [...section.querySelectorAll(".shelf")]; // to be ranked, then rank 1, 2, ...
const cards = [...document.querySelectorAll(".output")].map(cardOf);
let drag = null;

section.hidden = false;
follow();
form.addEventListener("input", follow);
window.addEventListener("pageshow", follow); // a browser may have filled the form in by itself

function cardOf(output) {
  const card = document.createElement("button");
  card.type = "button";
  card.className = "rank-card";
  card.dataset.place = output.dataset.place;
  card.setAttribute("aria-describedby", "shelves-help");
  const letter = part(card, "letter", output.dataset.letter);
  letter.title = `Drag output ${output.dataset.letter} to a rank`;
  part(card, "excerpt", output.querySelector(".answer").textContent);
  part(card, "unseen", "");
  card.addEventListener("keydown", (event) => press(card, event));
  card.addEventListener("pointerdown", (event) => take(card, event));
  card.addEventListener("pointermove", (event) => move(card, event));
  card.addEventListener("pointerup", () => drop(true));
  card.addEventListener("pointercancel", () => drop(false));
  return card;
}

function part(card, name, text) {
  const span = document.createElement("span");
  span.className = name;
  span.textContent = text;
  card.append(span);
  return span;
}

function radios(card) {
  return [...form.querySelectorAll(`input[name="ranks.${card.dataset.place}"]`)];
}

// The number of the shelf: 0 while the output is to be ranked.
function rankOf(card) {
  return Number(radios(card).find((radio) => radio.checked)?.value ?? 0);
}

function setRank(card, rank) {
  if (rank === rankOf(card)) return;
  const radio = radios(card).find((one) => Number(one.value) === rank);
  if (radio) {
    radio.checked = true;
    radio.dispatchEvent(new Event("input", { bubbles: true }));
    radio.dispatchEvent(new Event("change", { bubbles: true })); // says it in words
  } else {
    for (const one of radios(card)) one.checked = false;
    form.dispatchEvent(new Event("input", { bubbles: true }));
    said.textContent = `Output ${card.querySelector(".letter").textContent}, to be ranked`;
  }
}

function follow() {
  for (const card of cards) {
    const rank = rankOf(card);
    const row = shelves[rank].querySelector(".shelf-row");
    card.querySelector(".unseen").textContent = rank ? `, rank ${rank}` : ", to be ranked";
    if (card.parentElement === row) continue;
    const hadFocus = card === document.activeElement;
    row.append(card);
    if (hadFocus) card.focus();
  }
}

function press(card, event) {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  const rank = rankOf(card);
  if (event.key === "Escape" && drag) drop(false);
  else if (event.key === "ArrowUp") setRank(card, Math.max(0, rank - 1));
  else if (event.key === "ArrowDown") setRank(card, Math.min(cards.length, rank + 1));
  else if (/^[1-9]$/.test(event.key)) setRank(card, Math.min(cards.length, Number(event.key)));
  else return;
  event.preventDefault();
  event.stopPropagation(); // the number keys of the page mean the marked output
}

function take(card, event) {
  // A finger drags by the letter alone: anywhere else it scrolls the page, and must not rank.
  if (event.button !== 0 || (event.pointerType !== "mouse" && !event.target.closest(".letter"))) return;
  drag = { card, x: event.clientX, y: event.clientY, scrolled: window.scrollY, at: event, moving: false };
  card.setPointerCapture(event.pointerId);
}

function move(card, event) {
  if (drag?.card !== card) return;
  drag.at = event;
  if (!drag.moving) {
    if (Math.hypot(event.clientX - drag.x, event.clientY - drag.y) < DRAG_AFTER_PX) return;
    drag.moving = true;
    card.classList.add("dragged");
    requestAnimationFrame(scroll);
  }
  show();
}

function show() {
  const { card, at, x, y, scrolled } = drag;
  const down = at.clientY - y + window.scrollY - scrolled;
  card.style.transform = `translate(${at.clientX - x}px, ${down}px)`;
  const under = shelfUnder(at);
  for (const shelf of shelves) shelf.classList.toggle("over", shelf === under);
}

function scroll() {
  if (!drag?.moving) return;
  const y = drag.at.clientY;
  const step = y < EDGE_PX ? -SCROLL_PX : y > window.innerHeight - EDGE_PX ? SCROLL_PX : 0;
  if (step) {
    window.scrollBy(0, step);
    show();
  }
  requestAnimationFrame(scroll);
}

function shelfUnder(at) {
  const found = document.elementsFromPoint(at.clientX, at.clientY);
  return found.map((one) => one.closest(".shelf")).find((shelf) => shelf !== null);
}

function drop(keep) {
  if (!drag) return;
  const { card, at, moving } = drag;
  drag = null;
  if (!moving) return;
  card.style.transform = "";
  card.classList.remove("dragged");
  for (const shelf of shelves) shelf.classList.remove("over");
  const under = shelfUnder(at);
  if (keep && under) setRank(card, shelves.indexOf(under));
}
