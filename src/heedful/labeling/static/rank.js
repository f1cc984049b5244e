// Number keys for rating and ranking, and words for what they did. The radio buttons hold the state.

const form = document.getElementById("work");
const said = document.getElementById("said");
const outputs = [...document.querySelectorAll(".output")];
const panel = document.querySelector(".keys");
let marked = 0;

panel.hidden = false;
for (const output of outputs) {
  const button = output.querySelector(".all-no");
  button.hidden = false;
  button.addEventListener("click", () => allNo(output));
  output.addEventListener("focusin", () => mark(outputs.indexOf(output), false));
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
  for (const question of output.querySelectorAll(".yes-no")) {
    if (!question.querySelector("input:checked")) question.querySelector('input[value="no"]').checked = true;
  }
  form.dispatchEvent(new Event("input", { bubbles: true }));
  said.textContent = `Output ${output.dataset.letter}: the other questions are answered with no`;
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
  else return;
  event.preventDefault();
});
