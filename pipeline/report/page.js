"use strict";
// Hovering over a chart or a spectrogram, or stepping through it with the arrow keys, reads it out
// in one tip, which is also what a screen reader hears. Buttons of snippets play their sound.

const tip = document.getElementById("tip");

function showTip(text, x, y) {
  tip.textContent = text;
  tip.hidden = false;
  const left = Math.min(x + 12, document.documentElement.clientWidth - tip.offsetWidth - 8);
  tip.style.left = `${Math.max(8, left) + scrollX}px`;
  tip.style.top = `${Math.max(4, y - tip.offsetHeight - 10) + scrollY}px`;
}

// at(place) shows one of `count` places; find(event) is the place under the pointer.
function readable(box, count, { at, find, hide }) {
  let place = -1;
  const go = (next) => {
    if (!count()) return;
    place = Math.max(0, Math.min(count() - 1, next));
    at(place);
  };
  const leave = () => { tip.hidden = true; hide(); };
  box.addEventListener("pointermove", (event) => go(find(event)));
  box.addEventListener("pointerdown", (event) => go(find(event)));
  box.addEventListener("pointerleave", leave);
  box.addEventListener("blur", leave);
  box.addEventListener("keydown", (event) => {
    const steps = { ArrowRight: place + 1, ArrowLeft: place - 1, Home: 0, End: count() - 1 };
    if (event.key === "Escape") return leave();
    if (!(event.key in steps)) return;
    event.preventDefault();
    go(steps[event.key]);
  });
}

for (const plot of document.querySelectorAll(".plot")) {
  const svg = plot.querySelector("svg");
  const points = JSON.parse(plot.dataset.points);
  const ring = document.createElementNS("http://www.w3.org/2000/svg", "circle");
  ring.setAttribute("class", "hover");
  ring.setAttribute("r", 6);
  const scale = () => svg.getBoundingClientRect().width / svg.viewBox.baseVal.width;
  readable(plot, () => points.length, {
    at(place) {
      const [x, y, text] = points[place];
      const frame = svg.getBoundingClientRect();
      ring.setAttribute("cx", x);
      ring.setAttribute("cy", y);
      svg.append(ring);
      showTip(text, frame.left + x * scale(), frame.top + y * scale());
    },
    find(event) {
      const frame = svg.getBoundingClientRect();
      const x = (event.clientX - frame.left) / scale();
      const y = (event.clientY - frame.top) / scale();
      // A chart is read along x; y only decides between lines.
      const far = points.map(([a, b]) => Math.hypot(a - x, (b - y) * (plot.dataset.rows ? 4 : 0.25)));
      return far.indexOf(Math.min(...far));
    },
    hide() { ring.remove(); },
  });
}

for (const box of document.querySelectorAll(".sound")) {
  const codes = JSON.parse(box.dataset.codes);
  const cursor = box.querySelector(".cursor");
  const audio = box.parentElement.querySelector("audio");
  const each = Number(box.dataset.seconds) / codes.length;
  readable(box, () => codes.length, {
    at(place) {
      const frame = box.getBoundingClientRect();
      cursor.hidden = false;
      cursor.style.left = `${(100 * place) / codes.length}%`;
      cursor.style.width = `${100 / codes.length}%`;
      const text = `${(place * each).toFixed(2)} s: code ${codes[place]}`;
      showTip(text, frame.left + (frame.width * place) / codes.length, frame.top);
    },
    find(event) {
      const frame = box.getBoundingClientRect();
      return Math.floor((codes.length * (event.clientX - frame.left)) / frame.width);
    },
    hide() { cursor.hidden = true; },
  });
  if (!audio) continue;
  box.addEventListener("dblclick", (event) => {
    const frame = box.getBoundingClientRect();
    audio.currentTime = (codes.length * each * (event.clientX - frame.left)) / frame.width;
    audio.play();
  });
  for (const player of box.parentElement.querySelectorAll("audio")) {
    player.addEventListener("timeupdate", () => {
      if (player.paused) return;
      const place = Math.min(codes.length - 1, Math.floor(player.currentTime / each));
      cursor.hidden = false;
      cursor.style.left = `${(100 * place) / codes.length}%`;
      cursor.style.width = `${100 / codes.length}%`;
    });
  }
}

// One player for all snippets: a new one ends what plays.
const snippets = new Audio();
let button = null;
let waiting = [];

function play(next) {
  if (button) button.classList.remove("playing");
  button = next;
  if (!next) return;
  next.classList.add("playing");
  snippets.src = next.dataset.sound;
  // A sound that is replaced before it began is no error.
  snippets.play().then(() => { next.dataset.played = "yes"; }).catch((error) => {
    if (error.name !== "AbortError") throw error;
  });
}

snippets.addEventListener("ended", () => setTimeout(() => play(waiting.shift()), 120));
for (const each of document.querySelectorAll("button.snippet")) {
  each.addEventListener("click", () => { waiting = []; play(each); });
}
for (const all of document.querySelectorAll("button.all")) {
  all.addEventListener("click", () => {
    waiting = [...all.parentElement.querySelectorAll("button.snippet")];
    play(waiting.shift());
  });
}
// One player at a time.
document.addEventListener("play", (event) => {
  for (const other of document.querySelectorAll("audio")) if (other !== event.target) other.pause();
}, true);
